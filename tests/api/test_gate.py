"""Who may ask: Host and Origin."""

from __future__ import annotations

import httpx
import pytest

from api.gate import HostRule, OriginRule
from node.setting_table import LOCAL_ORIGINS


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:11434", True),
        ("127.0.0.1:11434", True),
        ("127.8.9.10", True),
        ("[::1]:11434", True),
        ("chat.localhost", True),
        ("", True),
        ("node.example:11434", True),
        ("NODE.example", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:11434", False),
        ("192.168.1.7:11434", False),
        ("[2001:db8::1]", False),
        ("127.0.0.1:11434:80", False),
        ("evil.example:localhost", False),
        ("[", True),
    ],
)
def test_a_loopback_node_answers_to_loopback_and_configured_names_only(host: str, allowed: bool) -> None:
    assert HostRule("127.0.0.1", ["node.example"]).allows(host) is allowed


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("192.168.1.7:11434", True), ("[2001:db8::1]:11434", True), ("localhost", True), ("evil.example", False)],
)
def test_a_node_on_every_interface_answers_to_addresses_but_not_to_foreign_names(host: str, allowed: bool) -> None:
    assert HostRule("0.0.0.0", []).allows(host) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("https://localhost:3000", True),
        ("http://127.0.0.1:8080", True),
        ("app://obsidian.md", True),
        ("tauri://localhost", True),
        ("vscode-webview://1a2b", True),
        ("chrome-extension://abcdef", False),
        ("https://chat.example", True),
        ("https://a.team.example", True),
        ("http://node.example:11434", True),
        ("https://chat.example:444", False),
        ("http://chat.example", False),
        ("https://evil.example", False),
        ("https://localhost.evil.example", False),
        ("https://evil.example/x.team.example", False),
        ("null", False),
    ],
)
def test_only_local_and_listed_pages_are_allowed(origin: str, allowed: bool) -> None:
    rule = OriginRule(("https://chat.example", "https://*.team.example", *LOCAL_ORIGINS))
    assert rule.allows(origin, "node.example:11434") is allowed


def test_a_lone_star_allows_every_page() -> None:
    assert OriginRule(("*",)).allows("https://evil.example", "localhost")


@pytest.mark.parametrize(("path", "native"), [("/api/tags", True), ("/v1/models", False)])
async def test_a_foreign_host_is_refused_in_the_apis_shape(http: httpx.AsyncClient, path: str, native: bool) -> None:
    response = await http.get(path, headers={"Host": "evil.example"})
    assert response.status_code == 403
    error = response.json()["error"]
    assert "'evil.example' is not allowed" in (error if native else error["message"])


async def test_a_foreign_page_is_refused_and_a_listed_one_may_read(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/tags", headers={"Origin": "https://evil.example"})).status_code == 403
    listed = await http.get("/api/tags", headers={"Origin": "https://chat.example"})
    assert listed.status_code == 200
    assert listed.headers["access-control-allow-origin"] == "https://chat.example"
    missing = await http.post("/api/show", json={"model": "no"}, headers={"Origin": "https://chat.example"})
    assert missing.headers["access-control-allow-origin"] == "https://chat.example"


async def test_a_preflight_is_answered_with_ollamas_headers(http: httpx.AsyncClient) -> None:
    headers = {"Origin": "http://localhost:5173", "Access-Control-Request-Method": "POST"}
    response = await http.options("/v1/chat/completions", headers=headers)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "http://localhost:5173"
    assert "DELETE" in response.headers["access-control-allow-methods"]
    assert "x-stainless-retry-count" in response.headers["access-control-allow-headers"]
    refused = await http.options("/v1/chat/completions", headers=headers | {"Origin": "https://evil.example"})
    assert refused.status_code == 403
