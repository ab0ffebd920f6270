"""A model that counts: its text is a function of the tokens before, so any node can go on where another stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from node.errors import NodeError
from node.jobs import Delta, Done, Event, Job, Usage
from node.supervisor import LoadedModel, LoadOptions
from registry import Model
from tests.api.scripted_node import ScriptedNode

WORDS = 40


def whole_text(count: int = WORDS) -> str:
    return "".join(f"{number} " for number in range(count))


@dataclass
class CountingNode(ScriptedNode):
    """Says "0 1 2 ..." up to the budget, a token each; stops after `stop_after` tokens of its own, with `failure`."""

    pause_s: float = 0.001
    stop_after: int | None = None
    failure: NodeError | None = None
    asked: list[Job] = field(default_factory=list)

    async def run(
        self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None
    ) -> AsyncGenerator[Event, None]:
        self.asked.append(job)
        try:
            budget = job.max_tokens or WORDS
            for said, number in enumerate(range(len(job.resume), budget)):
                if said == self.stop_after:
                    if self.failure is not None:
                        raise self.failure
                    await asyncio.sleep(60)
                await asyncio.sleep(self.pause_s)
                yield Delta(job=job.id, text=f"{number} ", tokens=(number,))
            usage = Usage(prompt_tokens=5, output_tokens=budget)
            yield Done(job=job.id, reason="length", usage=usage, context=tuple(range(budget)))
        finally:
            self.closed += 1

    def loaded(self) -> list[LoadedModel]:
        return []
