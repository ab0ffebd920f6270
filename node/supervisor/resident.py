"""A model in memory: its runner, who uses it, when it goes. Changed only by its supervisor, in one event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from node.runner.protocol import Adapter, Loaded
from node.supervisor.policy import Residency
from node.supervisor.runner import Runner
from node.supervisor.types import LoadedModel, LoadOptions, WeightsKey

if TYPE_CHECKING:
    from registry import Digest, Model

# How fast the mean length of a job follows new ones.
_MEAN_WEIGHT = 0.2
_FIRST_MEAN_S = 5.0


@dataclass(frozen=True, slots=True)
class Weights:
    """What a runner holds, and so what requests can share one: models that differ only in defaults do.

    `digest` names the rest but `embedding` (`Model.weights_digest`).
    """

    digest: Digest
    path: str
    adapters: tuple[Adapter, ...]
    template: str | None
    embedding: bool

    @property
    def key(self) -> WeightsKey:
        """What makes them the same, wherever their files lie."""
        return self.digest, self.embedding

    def are_there(self) -> bool:
        """Whether their files are where they were."""
        return all(Path(path).exists() for path in (self.path, *(adapter.path for adapter in self.adapters)))

    @classmethod
    def of(cls, model: Model, *, embedding: bool) -> Weights:
        """Read what the model consists of. Raises RegistryError: a blob is missing."""
        adapters = tuple(Adapter(path=str(path)) for path in model.adapters)
        return cls(model.weights_digest, str(model.weights), adapters, model.template, embedding)


@dataclass(slots=True)
class Claims:
    """How many requests have waited for a load and not taken up its outcome yet."""

    count: int = 0


class Resident:
    """A loaded model. `gone` is set when its process has ended; `evictors` loads wait for that."""

    def __init__(
        self,
        model: Model,
        weights: Weights,
        runner: Runner,
        info: Loaded,
        *,
        options: LoadOptions,
        parallel: int,
        gpu_names: Sequence[str],
        claims: Claims,
        keep_alive_s: float,
    ) -> None:
        self.model, self.weights, self.runner, self.info = model, weights, runner, info
        self.options, self.parallel, self.keep_alive_s = options, parallel, keep_alive_s
        self.names = {model.name}
        self.in_use = 0
        self._claims = claims
        self.evictors = 0
        self.last_used_s = time.monotonic()
        self.mean_job_s = _FIRST_MEAN_S
        self.timer: asyncio.TimerHandle | None = None
        self.gone = asyncio.Event()
        self._gpu_names = frozenset(gpu_names)

    @property
    def leaving(self) -> bool:
        """Whether no new request may use it: somebody waits for its end, or its runner is gone."""
        return self.evictors > 0 or self.runner.is_lost

    @property
    def is_busy(self) -> bool:
        """Whether requests use it, or have waited for it and are about to."""
        return self.in_use > 0 or self._claims.count > 0

    def take(self, model: Model, keep_alive_s: float | None) -> None:
        """One more request uses it; its keep-alive holds from now on."""
        self.in_use += 1
        self.names.add(model.name)
        self.last_used_s = time.monotonic()
        if keep_alive_s is not None:
            self.keep_alive_s = keep_alive_s
        self.stop_timer()

    def give_back(self, took_s: float | None = None) -> None:
        """A request is done with it; `took_s`: a job took so long."""
        self.in_use -= 1
        self.last_used_s = time.monotonic()
        if took_s is not None:
            self.mean_job_s += _MEAN_WEIGHT * (took_s - self.mean_job_s)

    def stop_timer(self) -> None:
        """Forget the planned unloading."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def residency(self) -> Residency[Resident]:
        """How eviction sees it."""
        held = tuple((d.device, d.model_bytes + d.kv_bytes + d.compute_bytes) for d in self.info.allocated)
        return Residency(self, self.last_used_s, self.is_busy, held)

    def describe(self, waiting: int) -> LoadedModel:
        """How callers see it; `waiting`: requests for it that wait for a reload."""
        held = dict(self.residency().bytes_on)
        active = min(self.in_use, self.parallel)
        return LoadedModel(
            name=self.model.name,
            digest=self.model.digest,
            weights=self.weights.digest,
            size_bytes=sum(held.values()),
            vram_bytes=sum(count for device, count in held.items() if device in self._gpu_names),
            context_tokens=self.info.context_tokens,
            parallel=self.parallel,
            embedding=self.weights.embedding,
            default_context=self.options.num_ctx is None,
            expires_at=self._expires_at(),
            info=self.info,
            active=active,
            queued=self.in_use - active + waiting,
            idle_s=self._idle_s(),
            backlog_tokens=self.runner.backlog_tokens,
            prefixes=self.runner.prefixes,
        )

    def _idle_s(self) -> float:
        return 0.0 if self.in_use else time.monotonic() - self.last_used_s

    def _expires_at(self) -> datetime | None:
        if self.keep_alive_s == math.inf:
            return None
        try:
            return datetime.now(UTC) + timedelta(seconds=max(0.0, self.keep_alive_s - self._idle_s()))
        except OverflowError:
            return None
