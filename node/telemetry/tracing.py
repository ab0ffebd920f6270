"""Spans as the rest of Ayni sees them, and the tracer that makes none.

Parents are passed explicitly, as W3C `traceparent` text that travels with the job: one request runs through several
tasks, generators and machines, where "the current span" would be somebody else's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

from node.telemetry.trace_context import new_traceparent

SpanKind: TypeAlias = Literal["server", "client", "internal"]
Attributes: TypeAlias = Mapping[str, str | int | float | bool | tuple[str, ...]]

# The standard's own variables; any of them says where spans go.
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Span(Protocol):
    """A piece of work. Used in a `with` block, which ends it; an exception that leaves the block is its error."""

    @property
    def traceparent(self) -> str:
        """What to pass on, so that other spans become its children."""
        ...

    def put(self, attributes: Attributes) -> None:
        """Add attributes, or replace them."""
        ...

    def event(self, name: str, attributes: Attributes) -> None:
        """Note that something happened now."""
        ...

    def fail(self, error: str) -> None:
        """It ended with this kind of error, although no exception says so."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tracer(Protocol):
    """Who makes spans."""

    def span(self, name: str, kind: SpanKind, *, parent: str, attributes: Attributes) -> Span:
        """Begin one; `parent` is a traceparent, or "" for the first of a new trace."""
        ...

    def close(self, limit_s: float) -> None:
        """Send what has ended and was not sent yet. Blocks, at most about so long."""
        ...


class _NoSpan:
    """Nothing is recorded; the trace's id is still passed on, since log lines carry it."""

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def put(self, attributes: Attributes) -> None:
        pass

    def event(self, name: str, attributes: Attributes) -> None:
        pass

    def fail(self, error: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class NoTracer:
    """Makes spans that nobody keeps."""

    def span(self, name: str, kind: SpanKind, *, parent: str, attributes: Attributes) -> Span:
        """As a tracer's."""
        return _NoSpan(parent or new_traceparent())

    def close(self, limit_s: float) -> None:
        """There is nothing to send."""


NO_TRACER = NoTracer()


def begin_tracing(endpoint: str, *, version: str, node: str) -> Tracer:
    """The tracer of this daemon: one that sends spans by OTLP where the operator has said where to, else none.

    Args:
        endpoint: base URL of a collector, "" where only the standard variables count.
        node: the machine's name.
    """
    named = endpoint or any(os.environ.get(name) for name in ENDPOINT_VARIABLES)
    if not named or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return NO_TRACER
    from node.telemetry.otel import OtelTracer

    return OtelTracer(endpoint, version=version, node=node)
