"""What a daemon counts of its work, and the spans of the traces that its requests belong to.

Light until it is used: the metrics' library comes with the first thing counted, OpenTelemetry's only where its spans
have somewhere to go. Nothing in here ever sees a prompt, generated text or a credential.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from node.telemetry.job_watch import JobWatch
from node.telemetry.trace_context import new_traceparent, parse_traceparent, trace_id_of
from node.telemetry.tracing import NO_TRACER, Attributes, NoTracer, Span, SpanKind, Tracer, begin_tracing

if TYPE_CHECKING:
    from node.jobs import EmbedJob, Job
    from node.telemetry.metrics import Metrics
    from registry import Model

__all__ = [
    "NO_TRACER",
    "Attributes",
    "JobWatch",
    "NoTracer",
    "Span",
    "SpanKind",
    "Telemetry",
    "Tracer",
    "begin_tracing",
    "new_traceparent",
    "parse_traceparent",
    "trace_id_of",
]


class Telemetry:
    """One daemon's counts and traces; belongs to its event loop."""

    def __init__(self, tracer: Tracer = NO_TRACER) -> None:
        self.tracer = tracer

    @cached_property
    def metrics(self) -> Metrics:
        """The counts; the first use imports prometheus_client."""
        from node.telemetry.metrics import Metrics

        return Metrics()

    def watch(self, model: Model, job: Job | EmbedJob) -> JobWatch:
        """One job that this machine is to run, watched from now until the end of the `with` block."""
        return JobWatch(self, str(model.name), job)
