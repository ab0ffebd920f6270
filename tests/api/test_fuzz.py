"""Whatever a client sends, the answer is an answer: never a 500, always JSON with an `error` where it is a refusal."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.app import create_app
from api.daemon import Daemon
from node.runner.protocol import Submit, encode
from node.settings import Settings
from registry import ModelStore
from tests.api.scripted_node import ScriptedNode

USER = {"role": "user", "content": "hi"}
# Bodies that work; a fuzzed one has some of their fields replaced.
BODIES: dict[str, dict[str, Any]] = {
    "POST /api/generate": {"model": "plain", "prompt": "x", "stream": False, "options": {"top_k": 1}, "context": [1]},
    "POST /api/chat": {"model": "able", "messages": [USER], "tools": [], "format": "json", "think": True},
    "POST /api/embed": {"model": "embedder", "input": ["x"], "dimensions": 1, "options": {}},
    "POST /api/embeddings": {"model": "embedder", "prompt": "x"},
    "POST /api/show": {"model": "plain", "verbose": False},
    "POST /api/create": {"model": "", "from": "plain", "parameters": {}, "messages": [], "files": {}},
    "POST /api/copy": {"source": "nope", "destination": "y"},
    "DELETE /api/delete": {"model": "nope"},
    "POST /api/pull": {"model": "x"},
    "POST /v1/chat/completions": {"model": "plain", "messages": [USER], "stop": "x", "n": 1, "logit_bias": {}},
    "POST /v1/completions": {"model": "plain", "prompt": "x", "max_tokens": 3, "logprobs": 1},
    "POST /v1/embeddings": {"model": "embedder", "input": "x"},
    "GET /v1/models/plain": {},
}
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**64, -(2**63) - 1, 10**400, 1e300])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["json", "5m", "plain", "sha256:" + "0" * 64, "\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Method, path, body: a body that works with fields replaced, or any bytes at all."""
    route = draw(st.sampled_from(sorted(BODIES)))
    method, path = route.split()
    body = dict(BODIES[route])
    how = draw(st.sampled_from(["fields", "nested", "text", "bytes"]))
    if how == "bytes":
        return method, path, draw(st.binary(max_size=60))
    if how == "nested":
        opening = draw(st.sampled_from(["[", '{"messages":', '{"a":[']))
        return method, path, (opening * draw(st.integers(1, 2000))).encode()
    for field in draw(st.lists(st.sampled_from(sorted(body) or ["model"]), min_size=1, max_size=3)):
        body[field] = draw(ANY_JSON)
    if messages := body.get("messages"):
        body["messages"] = draw(st.sampled_from([messages, [draw(ANY_JSON)], [USER | {"content": draw(ANY_JSON)}]]))
    if "messages" in body and draw(st.booleans()):
        function = {"name": "f", "parameters": draw(ANY_JSON), "arguments": draw(ANY_JSON)}
        body["tools"] = [{"type": "function", "function": function}]
        body["messages"] = [USER, {"role": "assistant", "tool_calls": [{"function": function}]}]
    text = json.dumps(body)
    return method, path, (text[: draw(st.integers(0, len(text)))] if how == "text" else text).encode()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests())
def test_no_request_makes_a_500(models: ModelStore, settings: Settings, request: tuple[str, str, bytes]) -> None:
    node = ScriptedNode()
    node.say()
    app = create_app(Daemon(store=models, node=node, settings=settings, version="0.0"))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            method, path, body = request
            return await client.request(method, path, content=body)

    response = asyncio.run(ask())
    assert response.status_code < 500 or response.status_code == 501
    if response.status_code >= 400:
        assert "error" in response.json()
    for job in node.jobs:
        assert encode(Submit(job))
