"""A node that plays a script and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from node.jobs import Delta, Done, Embedded, EmbedJob, Event, Job, Rendered, Usage
from node.runner.protocol import Loaded
from node.supervisor import LoadedModel, LoadOptions
from registry import Model, ModelName

USAGE = Usage(prompt_tokens=5, cached_tokens=2, output_tokens=2, prompt_ns=3_000_000, output_ns=4_000_000)


@dataclass
class ScriptedNode:
    """Plays `events` for every job and remembers what it was asked."""

    events: list[Event | Exception] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    embeds: list[EmbedJob] = field(default_factory=list)
    options: list[LoadOptions] = field(default_factory=list)
    keep_alives: list[float | None] = field(default_factory=list)
    loads: int = 0
    unloaded: list[ModelName] = field(default_factory=list)
    closed: int = 0
    hang_after: int | None = None

    def say(self, *deltas: Delta, reason: Any = "stop", context: tuple[int, ...] = (1, 2, 3)) -> None:
        self.events = [*deltas, Done(job="", reason=reason, usage=USAGE, context=context)]

    async def run(
        self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None
    ) -> AsyncGenerator[Event, None]:
        self.jobs.append(job)
        self.options.append(options)
        self.keep_alives.append(keep_alive_s)
        try:
            for index, event in enumerate(self.events):
                if index == self.hang_after:
                    await asyncio.sleep(60)
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed += 1

    async def embed(self, model: Model, job: EmbedJob, options: LoadOptions, keep_alive_s: float | None) -> Embedded:
        self.embeds.append(job)
        vector = b"\x00\x00\x80?\x00\x00\x00\xc0"  # 1.0, -2.0
        return Embedded(job=job.id, vectors=(vector,) * len(job.inputs), prompt_tokens=3)

    async def render(self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None) -> Rendered:
        self.jobs.append(job)
        return Rendered(job=job.id, text="the prompt", prompt_tokens=2)

    async def load(
        self, model: Model, options: LoadOptions, keep_alive_s: float | None, *, embedding: bool = False
    ) -> LoadedModel:
        self.loads += 1
        self.options.append(options)
        return loaded(model)

    async def unload(self, name: ModelName) -> bool:
        self.unloaded.append(name)
        return True

    def loaded(self) -> list[LoadedModel]:
        return []


def loaded(model: Model) -> LoadedModel:
    info = Loaded(
        load_ns=1,
        context_tokens=64,
        train_context_tokens=64,
        embedding_length=8,
        allocated=(),
        supports_tools=False,
        supports_thinking=False,
        supports_infill=False,
    )
    return LoadedModel(
        name=model.name,
        digest=model.digest,
        weights=model.weights_digest,
        size_bytes=1000,
        vram_bytes=0,
        context_tokens=64,
        parallel=1,
        embedding=False,
        expires_at=datetime(2030, 1, 2, tzinfo=UTC),
        info=info,
        active=0,
        queued=0,
    )
