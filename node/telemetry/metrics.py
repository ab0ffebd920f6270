"""What is counted, by Prometheus' own library. Imported with the first thing counted.

Counted once per request, load or decision, never per token. Names and labels are an interface: docs/observability.md
lists them and is checked against this table. Labels take few values: routes, statuses and reasons are ours, model
names are those of models that exist, and of those only the first `MAX_MODELS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram

if TYPE_CHECKING:
    from node.jobs import Usage

# Models can be made and deleted without end; beyond this many names the rest count as one.
MAX_MODELS = 256
OTHER_MODELS = "other"
QUEUES = "for a turn among this cluster's requests (queue=turn) or for a sequence of a loaded model (queue=slot)"

# From an answer out of memory to one that waits for a large model's load.
_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# From 1000 tokens a second to one.
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_REQUEST_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_WAIT_S = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_LOAD_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """One daemon's counts, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models: set[str] = set()
        # On the machine that was asked.
        self.requests = self._counter(
            "requests", "Requests that make a model work, by the status they ended with", "api", "model", "status"
        )
        self.request_s = self._histogram("request_duration", "From a request to the end of its answer", _REQUEST_S)
        self.first_token_s = self._histogram(
            "time_to_first_token", "From a request to the first token of its answer", _FIRST_TOKEN_S
        )
        self.token_s = self._histogram(
            "time_per_output_token", "Mean time between the tokens of one answer, after its first", _TOKEN_S
        )
        self.queue_s = self._histogram("queue_wait", f"How long requests waited, {QUEUES}", _WAIT_S, "queue")
        self.routes = self._counter("routes", "Requests sent to a machine", "model", "target", "kind")
        self.route_refusals = self._counter("route_refusals", "Requests that no machine could take", "model", "reason")
        self.resumes = self._counter("resumes", "Requests that went on elsewhere after a failure", "model", "reason")
        self.lan_refusals = self._counter("lan_refusals", "Requests refused at the door of the LAN port", "status")
        # On the machine that has the model in memory.
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished jobs, cached ones too", "model")
        self.cached_tokens = self._counter("cached_tokens", "Prompt tokens that the prefix cache spared", "model")
        self.output_tokens = self._counter("output_tokens", "Tokens generated", "model")
        self.load_s = self._histogram("load_duration", "Loading a model into memory", _LOAD_S)
        self.loads = self._counter("loads", "Models loaded into memory", "model")
        self.load_failures = self._counter("load_failures", "Loads that failed", "model", "reason")
        self.evictions = self._counter("evictions", "Models that left memory", "model", "reason")

    def model(self, name: str) -> str:
        """The label for a model that exists ("" for a request that named none)."""
        if name in self._models:
            return name
        if len(self._models) >= MAX_MODELS:
            return OTHER_MODELS
        self._models.add(name)
        return name

    def routed(self, model: str, *, target: str, kind: str) -> None:
        """A request goes to the machine of this name."""
        self.routes.labels(self.model(model), target, kind).inc()

    def not_routed(self, model: str, reason: str) -> None:
        """No machine can take a request."""
        self.route_refusals.labels(self.model(model), reason).inc()

    def resumed(self, model: str, reason: str) -> None:
        """A request goes on elsewhere; `reason` is the name of the error."""
        self.resumes.labels(self.model(model), reason).inc()

    def waited(self, model: str, seconds: float) -> None:
        """A request had its turn, or gave up waiting for it."""
        self.queue_s.labels(self.model(model), "turn").observe(seconds)

    def loaded(self, model: str, took_s: float) -> None:
        """A model is in memory now."""
        label = self.model(model)
        self.loads.labels(label).inc()
        self.load_s.labels(label).observe(took_s)

    def load_failed(self, model: str, reason: str) -> None:
        """A model could not be loaded; `reason` is the name of the error."""
        self.load_failures.labels(self.model(model), reason).inc()

    def unloaded(self, model: str, reason: str) -> None:
        """A model left memory."""
        self.evictions.labels(self.model(model), reason).inc()

    def used(self, model: str, usage: Usage, *, resumed_tokens: int) -> None:
        """A job ended here; `resumed_tokens` of its output were generated elsewhere."""
        label = self.model(model)
        self.prompt_tokens.labels(label).inc(usage.prompt_tokens)
        self.cached_tokens.labels(label).inc(usage.cached_tokens)
        self.output_tokens.labels(label).inc(max(0, usage.output_tokens - resumed_tokens))

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"ayni_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"ayni_{name}_seconds", meaning, ("model", *labels), buckets=buckets, registry=self.registry)
