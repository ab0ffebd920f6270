"""One request seen from outside: a trace over two real daemons, counts, and lines of the log; never what was said."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.real_nodes import RealNode, form, real_nodes, until
from tests.support.otlp_receiver import OtlpReceiver, ReceivedSpan, otlp_receiver

DOCUMENT = Path(__file__).parents[2] / "docs/observability.md"
PROMPT = "Count from 1 to 40."
COUNT: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": PROMPT}],
    "think": False,
    "options": {"temperature": 0, "num_predict": 120},
}
SERVER, CLIENT = 2, 3  # opentelemetry.proto.trace.v1.Span.SpanKind
ERROR = 2  # opentelemetry.proto.trace.v1.Status.StatusCode


def traceparent(number: int) -> tuple[str, str]:
    """What a client would send, and the trace's id."""
    return f"00-{number:032x}-{number:016x}-01", f"{number:032x}"


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, collector: OtlpReceiver) -> Iterator[list[RealNode]]:
    """Two machines; the model is in the memory of the first, and they are mostly asked through the second."""
    settings = {
        "AYNI_LOG_FORMAT": "json",
        "AYNI_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with real_nodes(tmp_path_factory.mktemp("observed"), count=2, **settings) as found:
        form(found)
        a, b = found
        a.ask("POST", "/api/cluster/pins", {"model": "demo", "nodes": ["a"]})
        until(lambda: [m["node"] for m in b.ask("GET", "/api/ps")["models"]] == ["a"], what="the load on a")
        yield found


def log_of(node: RealNode, trace: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in node.log.splitlines()]  # every line is one object
    return [line for line in lines if line.get("trace") == trace]


def samples(page: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def total(page: str, name: str, **labels: str) -> float:
    return sum(value for found, value in samples(page).get(name, {}).items() if labels.items() <= dict(found).items())


def test_one_trace_spans_the_daemon_that_was_asked_and_the_one_that_served(
    nodes: list[RealNode], collector: OtlpReceiver
) -> None:
    _, b = nodes
    header, trace = traceparent(0xA1)
    answer = httpx.post(
        f"{b.url}/api/chat", json=COUNT | {"stream": False}, headers={"traceparent": header}, timeout=60
    ).json()
    spans = [s for s in collector.until(lambda s: sum(span.trace == trace for span in s) >= 3) if s.trace == trace]
    by_role = {span.role: span for span in spans}
    assert sorted(by_role) == ["answer", "attempt", "serve"]
    root, attempt, serve = by_role["answer"], by_role["attempt"], by_role["serve"]
    assert [span.node for span in (root, attempt, serve)] == ["b", "b", "a"]
    assert [span.kind for span in (root, attempt, serve)] == [SERVER, CLIENT, SERVER]
    assert (root.parent, attempt.parent, serve.parent) == (f"{0xA1:016x}", root.id, attempt.id)
    assert (root.name, attempt.name, serve.name) == ("POST /api/chat", "chat demo:latest", "chat demo:latest")
    for span in spans:
        assert span.attributes["gen_ai.operation.name"] == "chat"
        assert span.attributes["gen_ai.provider.name"] == "ayni"
        assert span.attributes["gen_ai.request.model"] == "demo:latest"
        assert span.attributes["gen_ai.request.max_tokens"] == 120
        assert span.service["service.name"] == "ayni"
    for span in (root, serve):
        assert span.attributes["gen_ai.usage.input_tokens"] == answer["prompt_eval_count"]
        assert span.attributes["gen_ai.usage.output_tokens"] == answer["eval_count"]
    assert root.attributes["http.response.status_code"] == 200
    assert attempt.attributes["ayni.node.name"] == "a"
    assert attempt.attributes["ayni.resumed"] is False
    assert "; resident; total=" in attempt.attributes["ayni.route"]
    assert serve.attributes["gen_ai.response.finish_reasons"] == [answer["done_reason"]]
    assert serve.events == ("model ready", "first token")


def test_the_log_tells_each_request_on_both_machines_under_the_same_trace(nodes: list[RealNode]) -> None:
    a, b = nodes
    header, trace = traceparent(0xB2)
    answer = httpx.post(
        f"{b.url}/api/chat", json=COUNT | {"stream": False}, headers={"traceparent": header}, timeout=60
    )
    asked = until(lambda: log_of(b, trace), what="the line of the machine that was asked")
    assert len(asked) == 1
    line = asked[0]
    route = line.pop("route")
    assert route == answer.headers["x-ayni-route"]
    assert route.startswith(f"{b.nodes()['a']['id']}; resident; total=")
    for measured in ("time", "first_token_s", "total_s"):
        assert line.pop(measured)
    assert line.pop("cached_tokens", 0) >= 0
    assert line == {
        "level": "info",
        "logger": "api.request_watch",
        "event": "answered",
        "model": "demo:latest",
        "api": "/api/chat",
        "status": 200,
        "node": "a",
        "kind": "resident",
        "prompt_tokens": answer.json()["prompt_eval_count"],
        "output_tokens": answer.json()["eval_count"],
        "trace": trace,
    }
    served = until(lambda: log_of(a, trace), what="the line of the machine that served")
    assert [entry["event"] for entry in served] == ["served"]
    assert served[0]["output_tokens"] == answer.json()["eval_count"]


def test_metrics_are_for_loopback_and_for_tokens_of_their_scope(nodes: list[RealNode]) -> None:
    a, b = nodes
    before_a, before_b = (httpx.get(f"{node.url}/metrics").text for node in nodes)
    answer = b.ask("POST", "/api/chat", COUNT | {"stream": False})
    issued = {
        scope: a.ask("POST", "/api/cluster/tokens", {"name": scope, "scopes": [scope]})["token"]
        for scope in ("metrics", "infer", "models")
    }
    context = ssl.create_default_context(cafile=str(b.ca))
    with httpx.Client(base_url=b.lan_url, verify=context) as scraper:
        assert scraper.get("/metrics").status_code == 401
        for scope, token in issued.items():
            found = scraper.get("/metrics", headers={"authorization": f"Bearer {token}"})
            assert found.status_code == (200 if scope == "metrics" else 403)
            assert scraper.get("/api/tags", headers={"authorization": f"Bearer {token}"}).status_code == (
                200 if scope == "infer" else 403
            )
        page = scraper.get("/metrics", headers={"authorization": f"Bearer {issued['metrics']}"}).text
    demo = {"model": "demo:latest"}
    for name, labels in (
        ("ayni_requests_total", {"api": "/api/chat", "status": "200", "node": "b"}),
        ("ayni_routes_total", {"target": "a", "kind": "resident", "node": "b"}),
        ("ayni_time_to_first_token_seconds_count", {"node": "b"}),
        ("ayni_time_per_output_token_seconds_count", {"node": "b"}),
    ):
        assert total(page, name, **demo, **labels) == total(before_b, name, **demo, **labels) + 1, name
    served = httpx.get(f"{a.url}/metrics").text
    used = total(served, "ayni_output_tokens_total", **demo) - total(before_a, "ayni_output_tokens_total", **demo)
    assert used == answer["eval_count"]
    assert total(served, "ayni_loads_total", **demo) >= 1
    assert total(served, "ayni_load_duration_seconds_sum", **demo) > 0
    assert total(served, "ayni_model_resident_bytes", **demo, node="a") > 0
    assert total(page, "ayni_models_resident", node="b") == 0
    assert total(page, "ayni_nodes", state="up") == 2
    assert total(page, "ayni_node_up", peer="a") == 1
    assert total(page, "ayni_device_free_bytes", device="ram") > 0
    assert total(page, "ayni_lan_refusals_total", status="401") >= 1
    assert total(page, "ayni_info", cluster="home") == 1


def test_the_documentation_lists_every_metric(nodes: list[RealNode]) -> None:
    for node in nodes:  # so that every gauge has something to say
        node.ask("POST", "/api/chat", COUNT | {"stream": False, "options": {"num_predict": 2}})
    documented = {}
    for name, labels in re.findall(r"^\| `(ayni_\w+)` \|([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE):
        documented[name] = set(re.findall(r"`(\w+)`", labels))
    page = httpx.get(f"{nodes[0].url}/metrics").text
    families = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(page)
        if family.name.startswith("ayni_")
    }
    assert families.keys() == documented.keys()
    seen = {name: family for name, family in families.items() if family.samples}
    assert len(seen) > 20
    for name, family in seen.items():
        for sample in family.samples:
            assert sample.labels.keys() - {"node", "le"} == documented[name], name


def test_nothing_that_was_said_is_in_spans_counts_or_logs(nodes: list[RealNode], collector: OtlpReceiver) -> None:
    a, b = nodes
    secret = "xylophone7 parade"
    header, trace = traceparent(0xC3)
    body = {"model": "demo", "prompt": secret, "system": "zebra9", "stream": False, "options": {"stop": ["quokka"]}}
    httpx.post(f"{b.url}/api/generate", json=body, headers={"traceparent": header}, timeout=60).raise_for_status()
    collector.until(lambda spans: sum(span.trace == trace for span in spans) >= 3)
    seen = b"".join(collector.bodies).decode("utf-8", "replace")
    seen += a.log + b.log + "".join(httpx.get(f"{node.url}/metrics").text for node in nodes)
    assert trace in seen
    for word in ("xylophone7", "parade", "zebra9", "quokka", "1, 2, 3", "Count from"):
        assert word not in seen


def test_a_resumed_answer_is_one_trace_with_an_attempt_for_each_machine(
    nodes: list[RealNode], collector: OtlpReceiver
) -> None:
    a, b = nodes
    header, trace = traceparent(0xD4)
    before = httpx.get(f"{b.url}/metrics").text
    with httpx.stream("POST", f"{b.url}/api/chat", json=COUNT, headers={"traceparent": header}, timeout=60) as response:
        for number, line in enumerate(response.iter_lines()):
            assert "error" not in json.loads(line), line
            if number == 8:
                a.kill()
    try:
        spans = [
            span
            for span in collector.until(lambda s: sum(span.trace == trace for span in s) >= 4)
            if span.trace == trace
        ]

        def of(role: str) -> list[ReceivedSpan]:
            return sorted((s for s in spans if s.role == role), key=lambda s: s.attributes.get("ayni.attempt", 0))

        (root,) = of("answer")
        assert root.attributes["ayni.resumes"] == 1
        assert root.status != ERROR
        first, second = of("attempt")
        assert {first.parent, second.parent} == {root.id}
        assert (first.attributes["ayni.node.name"], first.attributes["ayni.resumed"]) == ("a", False)
        assert (first.status, first.attributes["error.type"]) == (ERROR, "PeerLost")
        assert (second.attributes["ayni.node.name"], second.attributes["ayni.resumed"]) == ("b", True)
        (serve,) = of("serve")  # the other died with its machine
        assert (serve.node, serve.parent) == ("b", second.id)
        (line,) = until(lambda: log_of(b, trace), what="the line")
        assert (line["resumed"], line["node"], line["kind"]) == (1, "b", "load")
        after = httpx.get(f"{b.url}/metrics").text
        resumes = [
            total(page, "ayni_resumes_total", model="demo:latest", reason="PeerLost") for page in (before, after)
        ]
        assert resumes[1] == resumes[0] + 1
        assert total(after, "ayni_node_up", peer="a") == 0
    finally:
        a.start()
