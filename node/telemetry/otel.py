"""Spans by OpenTelemetry, sent to a collector over OTLP/HTTP by a thread of its SDK. Imported only if wanted."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from node.telemetry.trace_context import parse_traceparent
from node.telemetry.tracing import Attributes, Span, SpanKind

_KINDS: dict[SpanKind, trace.SpanKind] = {
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "internal": trace.SpanKind.INTERNAL,
}
# The asker left, or the stream was closed: an end like any other, not an error of ours.
_LEFT = (GeneratorExit, asyncio.CancelledError)


class _OtelSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def put(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def event(self, name: str, attributes: Attributes) -> None:
        self._span.add_event(name, attributes)

    def fail(self, error: str) -> None:
        self._span.set_attribute("error.type", error)
        self._span.set_status(Status(StatusCode.ERROR))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, _LEFT):
            self._span.set_attribute("ayni.cancelled", True)
        elif kind is not None:
            self.fail(kind.__name__)  # the name alone: texts of errors may quote what was asked
        self._span.end()


class OtelTracer:
    """Makes spans and sends them; headers, sampler, resource and so on are as the OTEL_* variables say."""

    def __init__(self, endpoint: str, *, version: str, node: str) -> None:
        """`endpoint`: base URL of the collector; "": as the variables say."""
        ours = Resource.create({"service.name": "ayni", "service.version": version, "service.instance.id": node})
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes before ours.
        resource = ours.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ayni", version)

    def span(self, name: str, kind: SpanKind, *, parent: str, attributes: Attributes) -> Span:
        """Begin a span; whether it is recorded is the sampler's choice, by default its parent's."""
        context = trace.set_span_in_context(NonRecordingSpan(_context_of(parent))) if parent else None
        span = self._tracer.start_span(name, context, _KINDS[kind], attributes, record_exception=False)
        return _OtelSpan(span)

    def close(self, limit_s: float) -> None:
        """Send the rest; a collector that does not answer is given up after the limit."""
        # The SDK would wait for half a minute.
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(limit_s)


def _context_of(traceparent: str) -> SpanContext:
    """The span of another task or machine; an invalid one if the text makes no sense."""
    known = parse_traceparent(traceparent) or f"00-{'0' * 32}-{'0' * 16}-00"
    _, trace_id, span_id, flags = known.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
