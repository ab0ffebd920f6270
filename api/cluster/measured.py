"""This machine's own part of the work, measured: what is being loaded, and how fast prompts and answers go."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.errors import LoadFailure
from node.jobs import Done, Embedded, EmbedJob, Event, Job, Rendered, Usage
from node.peers import ModelNotThere
from node.supervisor import LoadedModel, LoadOptions, WeightsKey
from registry import BlobNotFound, RegistryError

if TYPE_CHECKING:
    from node.identity import NodeId
    from node.serves import OwnNode
    from registry import Digest, Model, ModelName

# How fast a mean follows new measurements.
_WEIGHT = 0.3
# The load of a smaller model says more about starting a process than about reading a disk.
_LEAST_LOAD_BYTES = 256 << 20
# A prompt shorter than this says more about overheads than about speed.
_LEAST_TOKENS = 8
MAX_MEASURED = 256


@dataclass(slots=True)
class Speed:
    """Means; 0: nothing measured yet."""

    prefill_tokens_s: float = 0.0
    decode_tokens_s: float = 0.0
    mean_job_s: float = 0.0


@dataclass(slots=True)
class Work:
    """Requests for one model that this machine is at, those included that wait for it to be loaded.

    `options`: of the one that asks for the largest context.
    """

    model: Model
    embedding: bool
    options: LoadOptions
    requests: int = 0

    @property
    def key(self) -> tuple[Digest, bool]:
        """What makes it one piece of work."""
        return self.model.weights_digest, self.embedding


class MeasuredNode:
    """The supervisor, with an eye on it. `on_change` is told when what is in memory may have changed.

    A model whose weights are not here raises ModelNotThere, a damaged one LoadFailure: another node may have it whole.
    """

    def __init__(self, me: NodeId, node: OwnNode, on_change: Callable[[], None]) -> None:
        self._me, self._node, self._on_change = me, node, on_change
        self.speeds: dict[tuple[Digest, bool], Speed] = {}
        self._pinned: frozenset[WeightsKey] = frozenset()
        self.prefill_bytes_s = 0.0
        self.decode_bytes_s = 0.0
        self.load_bytes_s = 0.0
        self._loading: dict[Digest, list[int]] = {}
        self._working: dict[tuple[Digest, bool], Work] = {}

    @property
    def pinned(self) -> frozenset[WeightsKey]:
        """What stays in memory whatever keep-alive a request names, and whatever else asks for its room."""
        return self._pinned

    @pinned.setter
    def pinned(self, weights: frozenset[WeightsKey]) -> None:
        self._pinned = weights
        self._node.keep(weights)

    def loading(self) -> dict[Digest, int]:
        """What requests wait for, and its bytes."""
        return {digest: sizes[0] for digest, sizes in self._loading.items() if sizes}

    def working(self) -> list[Work]:
        """What this machine answers now, whoever asked."""
        return list(self._working.values())

    async def run(
        self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """As the supervisor's."""
        with self._at_work(model, options), self._noting_load(model) as loaded:
            async with aclosing(self._node.run(model, job, options, self._stay_s(model, keep_alive_s))) as events:
                async for event in events:
                    loaded()
                    if type(event) is Done:
                        self._measure(model, event.usage)
                    yield event

    async def embed(
        self, model: Model, job: EmbedJob, options: LoadOptions, keep_alive_s: float | None = None
    ) -> Embedded:
        """As the supervisor's."""
        with self._at_work(model, options, embedding=True), self._noting_load(model):
            embedded = await self._node.embed(model, job, options, self._stay_s(model, keep_alive_s, embedding=True))
            self._speed(model, embedding=True, took_s=embedded.compute_ns / 1e9)
            return embedded

    async def render(self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None = None) -> Rendered:
        """As the supervisor's."""
        with self._noting_load(model):
            return await self._node.render(model, job, options, self._stay_s(model, keep_alive_s))

    async def load(
        self, model: Model, options: LoadOptions, keep_alive_s: float | None = None, *, embedding: bool = False
    ) -> LoadedModel:
        """As the supervisor's."""
        with self._noting_load(model):
            stay_s = self._stay_s(model, keep_alive_s, embedding=embedding)
            return await self._node.load(model, options, stay_s, embedding=embedding)

    async def unload(self, name: ModelName) -> bool:
        """As the supervisor's."""
        found = await self._node.unload(name)
        self._on_change()
        return found

    def loaded(self) -> list[LoadedModel]:
        """As the supervisor's."""
        return self._node.loaded()

    def leave(self, weights: Digest, *, embedding: bool) -> None:
        """As the supervisor's; what is pinned stays."""
        if (weights, embedding) not in self.pinned:
            self._node.leave(weights, embedding=embedding)
            self._on_change()

    def let_go(self, weights: Digest, *, embedding: bool) -> None:
        """As the supervisor's."""
        self._node.let_go(weights, embedding=embedding)

    @contextmanager
    def _at_work(self, model: Model, options: LoadOptions, *, embedding: bool = False) -> Iterator[None]:
        key = (model.weights_digest, embedding)
        work = self._working.setdefault(key, Work(model, embedding, options))
        work.requests += 1
        if (options.num_ctx or 0) > (work.options.num_ctx or 0):
            work.options = options
        try:
            yield
        finally:
            work.requests -= 1
            if not work.requests:
                del self._working[key]

    def _stay_s(self, model: Model, keep_alive_s: float | None, *, embedding: bool = False) -> float | None:
        return math.inf if (model.weights_digest, embedding) in self.pinned else keep_alive_s

    @contextmanager
    def _noting_load(self, model: Model) -> Iterator[Callable[[], None]]:
        """Count the model as being loaded until the first sign that it is there, if it is not there now."""
        if any(item.weights == model.weights_digest for item in self._node.loaded()):
            yield _nothing
            return
        sizes = self._loading.setdefault(model.weights_digest, [])
        sizes.append(model.size_bytes)
        waiting = True

        def loaded() -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                sizes.pop()
                if not sizes:
                    self._loading.pop(model.weights_digest, None)
                    self._measure_load(model)
                self._on_change()

        self._on_change()
        try:
            yield loaded
        except BlobNotFound:
            raise ModelNotThere(self._me, str(model.name)) from None
        except RegistryError as error:  # damaged here; another node may have it whole
            raise LoadFailure(str(error)) from error
        finally:
            loaded()

    def _measure(self, model: Model, usage: Usage) -> None:
        speed = self._speed(model, embedding=False, took_s=(usage.prompt_ns + usage.output_ns) / 1e9)
        if (read := usage.prompt_tokens - usage.cached_tokens) >= _LEAST_TOKENS and usage.prompt_ns:
            speed.prefill_tokens_s = _mean(speed.prefill_tokens_s, read / usage.prompt_ns * 1e9)
            self.prefill_bytes_s = _mean(self.prefill_bytes_s, speed.prefill_tokens_s * model.size_bytes)
        if usage.output_tokens > 1 and usage.output_ns:
            speed.decode_tokens_s = _mean(speed.decode_tokens_s, usage.output_tokens / usage.output_ns * 1e9)
            self.decode_bytes_s = _mean(self.decode_bytes_s, speed.decode_tokens_s * model.size_bytes)

    def _measure_load(self, model: Model) -> None:
        for item in self._node.loaded():
            if item.weights == model.weights_digest and item.info.load_ns and model.size_bytes >= _LEAST_LOAD_BYTES:
                self.load_bytes_s = _mean(self.load_bytes_s, model.size_bytes / item.info.load_ns * 1e9)

    def _speed(self, model: Model, *, embedding: bool, took_s: float) -> Speed:
        """What is known of these weights, after a request that took so long."""
        speed = self.speeds.setdefault((model.weights_digest, embedding), Speed())
        if len(self.speeds) > MAX_MEASURED:
            del self.speeds[next(iter(self.speeds))]
        speed.mean_job_s = _mean(speed.mean_job_s, took_s)
        return speed


def _nothing() -> None:
    pass


def _mean(before: float, now: float) -> float:
    return now if not before else before + _WEIGHT * (now - before)
