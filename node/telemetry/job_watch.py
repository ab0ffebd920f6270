"""One job on the machine that runs it: its tokens counted, its time on that machine a span of its trace."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from node.jobs import Delta, Done, Embedded, EmbedJob, Event, Usage
from node.telemetry.gen_ai import operation_of, request_attributes, usage_attributes

if TYPE_CHECKING:
    from node.jobs import Job
    from node.telemetry import Telemetry


class JobWatch:
    """Used in a `with` block around the job; told of every event of it."""

    def __init__(self, telemetry: Telemetry, model: str, job: Job | EmbedJob) -> None:
        self._telemetry, self._model, self._job = telemetry, model, job
        self._tokens = 0
        self._ended = False
        self._span = telemetry.tracer.span(
            f"{operation_of(job)} {model}",
            "server",
            parent=job.trace,
            attributes={**request_attributes(model, job), "ayni.role": "serve"},
        )

    def __enter__(self) -> Self:
        self._span.__enter__()
        return self

    def ready(self) -> None:
        """The model is in memory, and the job goes to it."""
        self._span.event("model ready", {})

    def take(self, event: Event) -> None:
        """Something came out of it."""
        if type(event) is Delta:
            if not self._tokens:
                self._span.event("first token", {})
            self._tokens += len(event.tokens)
        elif type(event) is Done:
            self._end(event.usage)
            metrics = self._telemetry.metrics
            metrics.queue_s.labels(metrics.model(self._model), "slot").observe(event.usage.queue_ns / 1e9)
            self._span.put({"gen_ai.response.finish_reasons": (event.reason,)})
        elif type(event) is Embedded:
            self._end(Usage(prompt_tokens=event.prompt_tokens))

    def _end(self, usage: Usage) -> None:
        self._ended = True
        resumed = 0 if isinstance(self._job, EmbedJob) else len(self._job.resume)
        self._telemetry.metrics.used(self._model, usage, resumed_tokens=resumed)
        self._span.put(usage_attributes(usage))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ended and self._tokens:  # cancelled or lost: what was generated was generated all the same
            metrics = self._telemetry.metrics
            metrics.output_tokens.labels(metrics.model(self._model)).inc(self._tokens)
            self._span.put({"gen_ai.usage.output_tokens": self._tokens})
        self._span.__exit__(kind, error, trace)
