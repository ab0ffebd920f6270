"""Ollama's endpoints about stored models, and what every route answers to nonsense."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry import ModelStore
from tests.api.scripted_node import ScriptedNode
from tests.support.tiny_gguf import write_tiny_adapter

DIGEST = f"sha256:{'0' * 64}"


async def test_signs_of_life(http: httpx.AsyncClient) -> None:
    assert "Ollama is running" in (await http.get("/")).text
    assert (await http.head("/")).status_code == 200
    assert (await http.get("/api/version")).json() == {"version": "0.32.15", "ayni": "0.0"}


async def test_tags_have_what_clients_read(http: httpx.AsyncClient) -> None:
    models = {model["name"]: model for model in (await http.get("/api/tags")).json()["models"]}
    able = models["able:latest"]
    assert able["model"] == "able:latest"
    assert able["size"] > 0
    assert len(able["digest"]) == 64
    assert able["modified_at"].endswith("Z")
    assert able["capabilities"] == ["completion", "tools", "thinking"]
    assert able["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "148K",
        "quantization_level": "F32",
        "context_length": 512,
        "embedding_length": 64,
    }
    assert models["embedder:latest"]["capabilities"] == ["embedding"]


async def test_show_has_parameters_metadata_and_on_request_tensors(http: httpx.AsyncClient) -> None:
    shown = (await http.post("/api/show", json={"name": "plain"})).json()
    assert shown["parameters"].splitlines() == [
        "temperature                    0.5",
        'stop                           "END"',
        "num_ctx                        32",
    ]
    assert shown["system"] == "Be brief."
    assert "PARAMETER temperature 0.5" in shown["modelfile"]
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["tokenizer.ggml.tokens"] == []
    assert "tokenizer.chat_template" not in shown["model_info"]
    assert "tensors" not in shown
    verbose = (await http.post("/api/show", json={"model": "plain", "verbose": True})).json()
    assert verbose["tensors"][0].keys() == {"name", "type", "shape"}


async def test_a_model_is_created_with_everything_that_a_modelfile_can_say(
    http: httpx.AsyncClient, models: ModelStore, tmp_path: Path
) -> None:
    adapter = write_tiny_adapter(tmp_path / "adapter.gguf")
    digest = f"sha256:{hashlib.sha256(adapter.read_bytes()).hexdigest()}"
    assert (await http.head(f"/api/blobs/{digest}")).status_code == 404
    assert (await http.post(f"/api/blobs/{digest}", content=adapter.read_bytes())).status_code == 201
    assert (await http.post(f"/api/blobs/{digest}", content=b"")).status_code == 200
    assert (await http.head(f"/api/blobs/{digest}")).status_code == 200
    body = {
        "model": "made",
        "from": "able",
        "adapters": {"adapter.gguf": digest},
        "template": "{{ .Prompt }}",
        "system": "S",
        "license": ["L1", "L2"],
        "parameters": {"top_k": 3},
        "messages": [{"role": "user", "content": "u"}],
    }
    response = await http.post("/api/create", json=body)
    assert response.headers["content-type"] == "application/x-ndjson"
    statuses = [json.loads(line)["status"] for line in response.text.splitlines()]
    assert "writing manifest" in statuses
    assert statuses[-1] == "success"
    shown = (await http.post("/api/show", json={"model": "made"})).json()
    assert (shown["system"], shown["template"], shown["license"]) == ("S", "{{ .Prompt }}", "L1\nL2")
    assert shown["messages"] == [{"role": "user", "content": "u"}]
    assert shown["details"]["parent_model"] == "able:latest"
    assert (await http.request("DELETE", "/api/delete", json={"model": "made"})).status_code == 200
    assert (await http.post("/api/show", json={"model": "made"})).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        ({"model": "x"}, 400, "neither 'from' or 'files' was specified"),
        ({"from": "plain"}, 400, "model is required"),
        ({"model": "a b", "from": "plain"}, 400, "invalid model name"),
        ({"model": "x", "from": "nope"}, 404, "model 'nope:latest' not found"),
        ({"model": "x", "files": {"a.gguf": DIGEST}}, 404, f"blob {DIGEST} not found"),
        ({"model": "x", "files": {"a.gguf": "sha256:1"}}, 400, "invalid digest format"),
        ({"model": "x", "files": {"../a": DIGEST}}, 400, "file path must be relative"),
        ({"model": "x", "from": "plain", "parameters": {"top_q": 1}}, 400, "unknown parameter 'top_q'"),
        ({"model": "x", "from": "plain", "quantize": "q4_0"}, 400, "quantize is not supported"),
        ({"model": "x", "from": "plain", "messages": [{"role": "x"}]}, 400, "messages.0.role:"),
        ({"model": "x", "from": "plain", "requires": "soon"}, 400, "requires must be a valid version"),
        ({"model": "x", "from": "plain", "template": "{{ if }}"}, 400, "template error: template: line 1:"),
        ({"model": "x", "from": "plain", "template": "{% for %}"}, 400, "template error: chat template, line 1:"),
    ],
)
async def test_what_can_not_be_created_is_refused_before_anything_is_written(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, complaint: str
) -> None:
    for stream in (True, False):
        response = await http.post("/api/create", json=body | {"stream": stream})
        assert response.status_code == status
        assert response.json()["error"].startswith(complaint)


async def test_a_deleted_model_leaves_memory_too(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    assert (await http.post("/api/copy", json={"source": "plain", "destination": "twin"})).status_code == 200
    assert (await http.request("DELETE", "/api/delete", json={"name": "twin"})).status_code == 200
    assert [str(name) for name in node.unloaded] == ["twin:latest"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "complaint"),
    [
        ("POST", "/api/copy", {"source": "nope", "destination": "x"}, 404, "model 'nope' not found"),
        ("POST", "/api/copy", {"source": "a b", "destination": "x"}, 400, 'source "a b" is invalid'),
        ("POST", "/api/copy", {"source": "plain", "destination": ""}, 400, 'destination "" is invalid'),
        ("DELETE", "/api/delete", {"model": "nope"}, 404, "model 'nope' not found"),
        ("DELETE", "/api/delete", {"model": "a b"}, 400, 'name "a b" is invalid'),
        ("DELETE", "/api/delete", {}, 400, "model is required"),
        ("POST", "/api/pull", {"model": "llama3"}, 501, "pulling 'llama3' is not possible"),
        ("POST", "/api/push", {"model": "llama3"}, 501, "pushing 'llama3' is not possible"),
        ("POST", "/api/blobs/sha256:12", None, 400, "invalid digest format"),
        ("POST", f"/api/blobs/{DIGEST}", None, 400, f"digest mismatch, expected {DIGEST}"),
        ("GET", f"/api/blobs/{DIGEST}", None, 405, "method GET not allowed; use HEAD, POST"),
        ("GET", "/api/nothing", None, 404, "no such route: /api/nothing"),
        ("GET", "/api/chat", None, 405, "method GET not allowed; use POST"),
        ("POST", "/api/chat", None, 400, "missing request body"),
    ],
)
async def test_refusals_name_what_is_wrong(
    http: httpx.AsyncClient, method: str, path: str, body: Any, status: int, complaint: str
) -> None:
    response = await http.request(method, path, json=body) if body is not None else await http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"].startswith(complaint)
    if status == 405:
        assert response.headers["allow"]


async def test_a_body_is_read_up_to_the_limit(http: httpx.AsyncClient) -> None:
    fits = b'{"model": "' + b"x" * 1000 + b'"}'
    assert (await http.post("/api/show", content=fits)).status_code == 400
    refused = await http.post("/api/show", content=b'{"model": "' + b"x" * (1 << 20) + b'"}')
    assert (refused.status_code, refused.headers["connection"]) == (413, "close")


async def test_a_body_that_stops_coming_is_not_waited_for(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield b'{"model": "'
        await asyncio.Event().wait()

    monkeypatch.setattr("api.body.PACE_S", 0.05)
    async with asyncio.timeout(10):
        refused = await http.post("/api/show", content=stalling())
    assert (refused.status_code, refused.headers["connection"]) == (408, "close")
    assert refused.json() == {"error": "the request body came too slowly"}


async def test_long_bodies_on_their_way_have_bounded_room_and_short_ones_always_find_some(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.body.FREE_BYTES", 1000)
    go, there = asyncio.Event(), asyncio.Event()
    long = b'{"model": "' + b"x" * 4000

    async def waiting() -> AsyncIterator[bytes]:
        yield long
        there.set()
        await go.wait()
        yield b'"}'

    room = http._transport.app.state.body_room  # type: ignore[attr-defined]
    monkeypatch.setattr(room, "_left_bytes", 4000)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        first = group.create_task(http.post("/api/show", content=waiting()))
        await there.wait()
        refused = await http.post("/api/show", content=long + b'"}')
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.json() == {"error": "too many long requests are on their way; please try again"}
        assert (await http.post("/api/show", content=b'{"model": "plain"}')).status_code == 200
        go.set()
    assert first.result().status_code == 400
    assert (await http.post("/api/show", content=long + b'"}')).status_code == 400
    assert room._left_bytes == 4000


async def test_a_long_body_may_take_longer_as_long_as_it_comes(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steady() -> AsyncIterator[bytes]:
        for piece in (b'{"model": "plain", "system": "', b"x" * 100, b"x" * 100, b'"}'):
            yield piece
            await asyncio.sleep(0.5)

    monkeypatch.setattr("api.body.PACE_S", 1.2)
    monkeypatch.setattr("api.body.PACE_BYTES", 20)
    assert (await http.post("/api/show", content=steady())).status_code == 200


async def test_a_folder_that_can_not_be_used_is_named(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    node.events = [PermissionError(13, "Permission denied", "/models/blobs")]
    response = await http.post("/api/generate", json={"model": "plain", "prompt": "x"})
    assert (response.status_code, response.json()) == (500, {"error": "Permission denied: /models/blobs"})


async def test_a_bug_is_a_500_in_the_apis_shape_and_says_nothing_of_the_inside(
    http: httpx.AsyncClient, node: ScriptedNode
) -> None:
    node.events = [ZeroDivisionError("secret")]
    body = {"model": "plain", "messages": [{"role": "user", "content": "x"}], "stream": False}
    native = await http.post("/api/chat", json=body)
    openai = await http.post("/v1/chat/completions", json=body)
    assert (native.status_code, openai.status_code) == (500, 500)
    assert "secret" not in native.text + openai.text
    assert openai.json()["error"]["type"] == "api_error"
