"""On the plain port a key that only the daemon's user can read opens what changes the cluster."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from api.app import create_app
from api.cluster.routes import router
from api.daemon import Daemon
from node.settings import Settings
from registry import ModelStore
from tests.api.scripted_node import ScriptedNode

LOOKING = {("GET", "/api/cluster"), ("GET", "/api/cluster/nodes"), ("GET", "/api/cluster/discover")}
ROUTES = {
    (method, re.sub(r"\{[^}]*\}", "x", route.path))
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods
}
# This daemon takes part in no cluster: whoever got through the gate is told so.
THROUGH = 501


@pytest.fixture
def daemon(models: ModelStore, tmp_path: Path) -> Daemon:
    settings = Settings(models_dir=tmp_path, state_dir=tmp_path, origins=("*",))
    return Daemon(store=models, node=ScriptedNode(), settings=settings, version="0", bound_host="0.0.0.0")


async def status(daemon: Daemon, method: str, path: str, **headers: str) -> int:
    transport = httpx.ASGITransport(app=create_app(daemon), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434") as client:
        body = {"name": "x", "invitation": "x", "model": "x"}
        response = await client.request(method, path, headers=headers, json=body if method != "GET" else None)
    if response.status_code == 401:
        assert "daemon-11434.json" in response.json()["error"]
        assert daemon.key not in response.text
    return response.status_code


async def test_without_the_key_one_may_only_look(daemon: Daemon) -> None:
    assert len(ROUTES) > 12
    assert ROUTES > LOOKING
    for method, path in ROUTES:
        assert await status(daemon, method, path) == (THROUGH if (method, path) in LOOKING else 401), (method, path)
        assert await status(daemon, method, path, authorization=f"Bearer {daemon.key}") == THROUGH, (method, path)
    assert await status(daemon, "PUT", "/api/cluster/whatever/comes") == 401


@pytest.mark.parametrize("wrong", ["", "Bearer ", "Bearer x", "{key}", "Basic {key}", "Bearer {key}x"])
@pytest.mark.parametrize("origin", ["", "http://localhost:3000", "app://anything", "https://evil.example"])
async def test_a_wrong_key_is_none_and_a_web_page_has_none(daemon: Daemon, wrong: str, origin: str) -> None:
    headers = {"authorization": wrong.replace("{key}", daemon.key)} | ({"origin": origin} if origin else {})
    assert await status(daemon, "POST", "/api/cluster/tokens", **headers) == 401


async def test_whoever_only_uses_models_needs_no_key(daemon: Daemon) -> None:
    assert await status(daemon, "GET", "/api/tags") == 200
    assert await status(daemon, "GET", "/v1/models", authorization="Bearer unused") == 200


def test_each_daemon_has_a_key_of_its_own_that_its_text_does_not_show(daemon: Daemon) -> None:
    other = Daemon(store=daemon.store, node=daemon.node, settings=daemon.settings, version="0")
    assert len(daemon.key) >= 43
    assert daemon.key != other.key
    assert daemon.key not in repr(daemon)
