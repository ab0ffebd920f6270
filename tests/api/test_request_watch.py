"""What is told of each request that makes a model work: one line of the log, and counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from api.daemon import Daemon
from api.metered import METERED
from node.errors import DoesNotFit, QueueFull, RunnerLost
from node.jobs import Delta
from node.logs import parts_of
from node.settings import Settings
from node.telemetry import Telemetry, parse_traceparent
from registry import ModelStore
from tests.api.scripted_node import ScriptedNode

CHAT: dict[str, Any] = {"model": "plain", "messages": [{"role": "user", "content": "Zanzibar"}]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def daemon(models: ModelStore, node: ScriptedNode, settings: Settings, telemetry: Telemetry) -> Daemon:
    return Daemon(store=models, node=node, settings=settings, version="9.9", telemetry=telemetry)


@pytest.fixture
async def http(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> AsyncIterator[httpx.AsyncClient]:
    caplog.set_level(logging.DEBUG)
    transport = httpx.ASGITransport(app=create_app(daemon), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434") as client:
        yield client


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines about requests, without what is different each time."""
    found = []
    for record in caplog.records:
        if record.name == "api.request_watch":
            event, fields = parts_of(record)
            assert parse_traceparent(f"00-{fields.pop('trace')}-{'1' * 16}-01")
            for measured in ("total_s", "first_token_s"):
                fields.pop(measured, None)
            found.append({"event": event, "level": record.levelname} | fields)
    return found


async def counts(http: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    page = (await http.get("/metrics")).text
    return {
        (sample.labels["api"], sample.labels["model"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "ayni_requests_total"
    }


async def test_an_answer_is_one_line_with_its_figures_and_none_of_its_words(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await http.post("/api/chat", json=CHAT, headers={"traceparent": f"00-{TRACE}-{'1' * 16}-01"})
    assert f" trace={TRACE}\n" in caplog.text
    await http.post("/v1/chat/completions", json=CHAT | {"n": 2})
    await http.post("/api/embed", json={"model": "embedder", "input": ["Zanzibar", "b"]})
    line = {"event": "answered", "level": "INFO", "model": "plain:latest", "status": 200}
    used = {"prompt_tokens": 5, "cached_tokens": 2, "output_tokens": 2}
    assert told(caplog) == [
        line | {"api": "/api/chat"} | used,
        line | {"api": "/v1/chat/completions"} | {key: 2 * value for key, value in used.items()},
        line | {"api": "/api/embed", "model": "embedder:latest", "prompt_tokens": 3},
    ]
    assert not any(word in caplog.text for word in ("Zanzibar", "Hel"))
    assert await counts(http) == {
        ("/api/chat", "plain:latest", "200"): 1,
        ("/v1/chat/completions", "plain:latest", "200"): 1,
        ("/api/embed", "embedder:latest", "200"): 1,
    }


async def test_the_first_token_and_the_ones_after_it_are_timed_once_per_answer(
    http: httpx.AsyncClient, telemetry: Telemetry
) -> None:
    await http.post("/api/chat", json=CHAT)
    await http.post("/v1/chat/completions", json=CHAT | {"n": 3, "stream": True})
    value = telemetry.metrics.registry.get_sample_value
    labels = {"model": "plain:latest"}
    assert value("ayni_time_to_first_token_seconds_count", labels) == 2
    assert value("ayni_time_per_output_token_seconds_count", labels) == 4
    assert value("ayni_request_duration_seconds_count", labels) == 2


async def test_a_refusal_says_what_it_was_and_names_only_models_that_exist(
    http: httpx.AsyncClient, node: ScriptedNode, caplog: pytest.LogCaptureFixture
) -> None:
    await http.post("/api/chat", json=CHAT | {"model": "no-such-model"})
    await http.post("/api/chat", content=b"{")
    await http.get("/api/chat")
    await http.post("/api/chat", json=CHAT, headers={"host": "evil.example"})
    await http.post("/api/embed", json={"model": "", "input": "x"})
    node.events = [QueueFull(3, 7)]
    await http.post("/api/chat", json=CHAT)
    node.events = [DoesNotFit(2, 1)]
    await http.post("/v1/completions", json={"model": "plain", "prompt": "x", "stream": True})
    refused = {"event": "refused", "api": "/api/chat"}
    full = refused | {"level": "WARNING", "status": 503, "model": "plain:latest"}
    assert told(caplog) == [
        refused | {"level": "INFO", "status": 404, "error": "UnknownModel"},
        refused | {"level": "INFO", "status": 400, "error": "BadRequest"},
        refused | {"level": "INFO", "status": 405},
        refused | {"level": "INFO", "status": 403, "error": "ForbiddenHost"},
        refused | {"level": "INFO", "status": 404, "error": "UnknownModel", "api": "/api/embed"},
        full | {"error": "QueueFull"},
        full | {"error": "DoesNotFit", "api": "/v1/completions"},
    ]
    assert "no-such-model" not in (await http.get("/metrics")).text
    assert (await counts(http))["/api/chat", "plain:latest", "503"] == 1


async def test_a_stream_that_breaks_is_told_as_what_it_would_have_been(
    http: httpx.AsyncClient, node: ScriptedNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.events = [Delta(job="", text="Hel", tokens=(1,)), RunnerLost("plain", "it died")]
    answer = await http.post("/api/chat", json=CHAT)
    assert answer.status_code == 200
    assert told(caplog) == [
        {
            "event": "failed",
            "level": "WARNING",
            "model": "plain:latest",
            "api": "/api/chat",
            "status": 500,
            "error": "RunnerLost",
            "output_tokens": 1,
        }
    ]


async def test_a_client_that_leaves_is_told_as_that(
    daemon: Daemon, node: ScriptedNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    node.hang_after = 1
    begun, body = asyncio.Event(), b'{"model": "plain", "prompt": "x"}'
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        if (message := next(messages, None)) is not None:
            return message
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            begun.set()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/generate",
        "raw_path": b"/api/generate",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    async with asyncio.timeout(10):
        await create_app(daemon)(scope, receive, send)
    assert [(line["event"], line["status"], line["output_tokens"]) for line in told(caplog)] == [
        ("client left", 499, 1)
    ]
    assert node.closed == 1


async def test_other_requests_are_neither_told_nor_counted(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/", "/api/tags", "/api/version", "/nothing"):
        await http.get(path)
    preflight = {"origin": "http://localhost", "access-control-request-method": "POST"}
    assert (await http.options("/api/chat", headers=preflight)).status_code == 204
    assert told(caplog) == []
    assert await counts(http) == {}


async def test_the_page_is_what_the_scraper_asks_for_and_every_sample_names_the_node(
    http: httpx.AsyncClient, daemon: Daemon
) -> None:
    await http.post("/api/chat", json=CHAT)
    plain = await http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(plain.text))
    ours = [sample for family in families for sample in family.samples if sample.name.startswith("ayni_")]
    assert len(ours) > 20
    assert all(sample.labels["node"] for sample in ours)
    assert not any(sample.name.endswith("_created") for sample in ours)
    assert {sample.labels["version"] for sample in ours if sample.name == "ayni_info"} == {"9.9"}
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    opened = await http.get("/metrics", headers=accept)
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert opened.text.endswith("# EOF\n")


def test_every_path_that_makes_a_model_work_is_watched() -> None:
    from api import native_routes, openai_routes

    working = {
        route.path
        for router in (native_routes.router, openai_routes.router)
        for route in router.routes
        if "POST" in (getattr(route, "methods", None) or ())  # type: ignore[attr-defined]
    }
    assert working <= METERED
