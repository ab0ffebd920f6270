"""Which trace a request belongs to, what a job counts for, and how spans end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from node.jobs import Chat, Delta, Done, Embedded, EmbedJob, Job, Raw, Usage
from node.telemetry import (
    NO_TRACER,
    JobWatch,
    Telemetry,
    begin_tracing,
    new_traceparent,
    parse_traceparent,
    trace_id_of,
)
from node.telemetry.gen_ai import operation_of
from node.telemetry.metrics import MAX_MODELS, OTHER_MODELS, Metrics
from node.telemetry.otel import OtelTracer
from tests.support.otlp_receiver import otlp_receiver

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
USAGE = Usage(prompt_tokens=9, cached_tokens=4, output_tokens=5, queue_ns=2_000_000)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (PARENT, PARENT),
        (f" {PARENT} ", PARENT),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", PARENT),
        (f"{PARENT}-more", ""),
        (f"ff-{TRACE}-{SPAN}-01", ""),
        (f"00-{'0' * 32}-{SPAN}-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (PARENT.upper(), ""),
        (PARENT[:-1], ""),
        ("", ""),
        ("\x00" * 4000, ""),
    ],
)
def test_a_traceparent_is_taken_if_it_makes_sense(text: str, taken: str) -> None:
    assert parse_traceparent(text) == taken


def test_without_a_tracer_the_trace_of_the_client_is_passed_on_and_a_new_one_made_where_there_is_none() -> None:
    assert NO_TRACER.span("x", "server", parent=PARENT, attributes={}).traceparent == PARENT
    made = NO_TRACER.span("x", "server", parent="", attributes={}).traceparent
    assert parse_traceparent(made) == made
    assert trace_id_of(made) != trace_id_of(new_traceparent())


def test_tracing_is_off_until_somebody_says_where_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    assert begin_tracing("", version="0", node="n") is NO_TRACER
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracer = begin_tracing("", version="0", node="n")
    assert isinstance(tracer, OtelTracer)
    tracer.close(0.1)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert begin_tracing("http://127.0.0.1:9", version="0", node="n") is NO_TRACER


class Traced:
    """A tracer whose spans stay here."""

    def __init__(self) -> None:
        self.tracer = OtelTracer("http://127.0.0.1:9", version="0", node="n")
        self.kept = InMemorySpanExporter()
        self.tracer._provider._active_span_processor._span_processors = (SimpleSpanProcessor(self.kept),)

    def last(self) -> Any:
        return self.kept.get_finished_spans()[-1]


@pytest.fixture
def traced() -> Iterator[Traced]:
    found = Traced()
    yield found
    found.tracer.close(0.1)


def test_a_span_is_its_parents_child_and_ends_as_its_block_does(traced: Traced) -> None:
    with traced.tracer.span("first", "server", parent="", attributes={"a": 1}) as root:
        with traced.tracer.span("second", "client", parent=root.traceparent, attributes={}):
            pass
        child = traced.last()
        root.put({"b": ("x", "y")})
    span = traced.last()
    assert root.traceparent.startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-0")
    assert (child.parent.span_id, child.context.trace_id) == (span.context.span_id, span.context.trace_id)
    assert dict(span.attributes) == {"a": 1, "b": ("x", "y")}
    for error, attributes, status in (
        (ValueError("the prompt"), {"error.type": "ValueError"}, "ERROR"),
        (asyncio.CancelledError(), {"ayni.cancelled": True}, "UNSET"),
        (GeneratorExit(), {"ayni.cancelled": True}, "UNSET"),
    ):
        with pytest.raises(type(error)), traced.tracer.span("x", "server", parent=PARENT, attributes={}):
            raise error
        span = traced.last()
        assert (dict(span.attributes), span.status.status_code.name) == (attributes, status)
        assert (span.events, span.status.description) == ((), None)
        assert f"{span.context.trace_id:032x}" == TRACE


def test_what_a_client_does_not_want_recorded_is_not(traced: Traced) -> None:
    with traced.tracer.span("x", "server", parent=f"00-{TRACE}-{SPAN}-00", attributes={}) as span:
        assert span.traceparent.endswith("-00")
        assert trace_id_of(span.traceparent) == TRACE
    assert traced.kept.get_finished_spans() == ()


def test_the_last_spans_are_sent_at_the_end_and_nobody_waits_long_for_a_collector() -> None:
    with otlp_receiver() as collector:
        tracer = OtelTracer(f"{collector.url}/", version="1.2", node="attic")
        with tracer.span("work", "internal", parent=PARENT, attributes={"ayni.role": "x"}):
            pass
        tracer.close(10)
        (span,) = collector.spans
    assert (span.name, span.trace, span.parent, span.node) == ("work", TRACE, SPAN, "attic")
    assert span.service["service.version"] == "1.2"


def counted(metrics: Metrics) -> dict[str, float]:
    names = ("prompt_tokens", "cached_tokens", "output_tokens")
    values = (metrics.registry.get_sample_value(f"ayni_{name}_total", {"model": "m"}) for name in names)
    return {name: value or 0 for name, value in zip(names, values, strict=True)}


def test_a_job_counts_what_this_machine_did_of_it() -> None:
    telemetry = Telemetry()
    job = Job(id="1", prompt=Raw(prompt="x"), resume=(1, 2))
    with JobWatch(telemetry, "m", job) as watch:
        watch.take(Delta(job="1", tokens=(3, 4)))
        watch.take(Done(job="1", reason="stop", usage=USAGE))
    assert counted(telemetry.metrics) == {"prompt_tokens": 9, "cached_tokens": 4, "output_tokens": 3}
    waited = telemetry.metrics.registry.get_sample_value("ayni_queue_wait_seconds_sum", {"model": "m", "queue": "slot"})
    assert waited == pytest.approx(0.002)


def test_a_job_that_is_cancelled_counts_what_was_generated() -> None:
    telemetry = Telemetry()
    with pytest.raises(GeneratorExit), JobWatch(telemetry, "m", Job(id="1", prompt=Raw(prompt="x"))) as watch:  # noqa: PT012
        watch.take(Delta(job="1", tokens=(3, 4)))
        watch.take(Delta(job="1", tokens=(5,)))
        raise GeneratorExit
    assert counted(telemetry.metrics) == {"prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 3}


def test_embedding_counts_the_tokens_read() -> None:
    telemetry = Telemetry()
    job = EmbedJob(id="1", inputs=("x",))
    with JobWatch(telemetry, "m", job) as watch:
        watch.take(Embedded(job="1", vectors=(b"",), prompt_tokens=7))
    assert counted(telemetry.metrics) == {"prompt_tokens": 7, "cached_tokens": 0, "output_tokens": 0}
    assert operation_of(job) == "embeddings"
    assert operation_of(Job(id="1", prompt=Chat(messages=()))) == "chat"


def test_however_many_models_are_made_the_number_of_labels_is_bounded() -> None:
    metrics = Metrics()
    labels = {metrics.model(f"m{number}") for number in range(3 * MAX_MODELS)}
    assert len(labels) == MAX_MODELS + 1
    assert metrics.model("m0") == "m0"
    assert metrics.model(f"m{2 * MAX_MODELS}") == OTHER_MODELS


def test_an_idle_node_imports_neither_library() -> None:
    code = (
        "import sys, api.app, api.serve, node.supervisor\n"
        "from node.telemetry import Telemetry, begin_tracing\n"
        "Telemetry(begin_tracing('', version='0', node='n'))\n"
        "print([n for n in ('prometheus_client', 'opentelemetry.sdk', 'opentelemetry.exporter') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
