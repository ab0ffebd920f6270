"""Nonsense against the real daemon: no request makes a 500, and the daemon is as well afterwards as before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.daemon_process import DaemonProcess

USER = {"role": "user", "content": "hi"}
SHORT = {"num_predict": 2}
ROUTES: dict[str, dict[str, Any]] = {
    "POST /api/generate": {"model": "tiny", "prompt": "x", "stream": False, "context": [1], "raw": False, "suffix": ""},
    "POST /api/chat": {"model": "able", "messages": [USER], "tools": [], "format": "", "think": False, "template": ""},
    "POST /api/embed": {"model": "embedder", "input": ["x"], "dimensions": 1, "truncate": True},
    "POST /api/show": {"model": "tiny", "verbose": False},
    "POST /api/create": {"model": "", "from": "tiny", "parameters": {}, "messages": [], "files": {}, "license": ""},
    "POST /api/copy": {"source": "nope", "destination": "y"},
    "DELETE /api/delete": {"model": "nope"},
    "POST /v1/chat/completions": {"model": "tiny", "messages": [USER], "stop": "x", "n": 1, "response_format": {}},
    "POST /v1/completions": {"model": "tiny", "prompt": "x", "logprobs": 1, "logit_bias": {}, "temperature": 0},
    "POST /v1/embeddings": {"model": "embedder", "input": "x", "dimensions": 0},
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=20) | st.just("json"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "a", "role"]), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def http(daemon: DaemonProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=daemon.url, timeout=60) as client:
        yield client


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    route = draw(st.sampled_from(sorted(ROUTES)))
    if draw(st.integers(0, 9)) == 0:
        return route, draw(st.binary(max_size=60))
    body = dict(ROUTES[route])
    for field in draw(st.lists(st.sampled_from(sorted(body)), min_size=1, max_size=2)):
        body[field] = draw(ANY_JSON)
    if route.startswith("POST /api/"):
        body["options"] = SHORT
    return route, json.dumps(body | {"max_tokens": 2}).encode()


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests())
def test_no_request_makes_a_500(http: httpx.Client, daemon: DaemonProcess, request: tuple[str, bytes]) -> None:
    route, body = request
    method, path = route.split()
    response = http.request(method, path, content=body)
    assert response.status_code < 500, (route, body, response.text)
    if response.status_code >= 400:
        assert "error" in response.json()
    assert "Traceback" not in daemon.log
