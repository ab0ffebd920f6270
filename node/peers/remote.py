"""Another node, used like the supervisor of this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal, TypeAlias

from node.jobs import Chat, Embedded, EmbedJob, Event, Job, Rendered
from node.peers.errors import PeerLost
from node.peers.wire import EmbedAsk, LoadAsk, ModelRef, Ready, RenderAsk, RunAsk, UnloadAsk, Unloaded

if TYPE_CHECKING:
    from node.identity import NodeId
    from node.peers.link import Link
    from node.supervisor import LoadedModel, LoadOptions
    from registry import Model, ModelName

# A request with more than this in it goes over a link of its own kind, so that tokens and small requests never wait
# behind pictures.
BULKY_BYTES = 256 << 10
UNLOAD_LIMIT_S = 10.0

Lane: TypeAlias = Literal["prompt", "bulky"]


class RemoteNode:
    """A `Serves` that another machine is. Raises PeerUnreachable and PeerLost beside what that node raises."""

    def __init__(self, node: NodeId, link: Callable[[NodeId, Lane], Awaitable[Link]]) -> None:
        self.node = node
        self._link = link

    async def run(
        self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Generate there: `Delta` ... and `Done`; closing the generator cancels the job."""
        link = await self._link(self.node, _lane(job))
        ask = RunAsk(link.number(), _ref(model), job, options, keep_alive_s)
        async with aclosing(link.run(ask)) as events:
            async for event in events:
                yield event

    async def embed(
        self, model: Model, job: EmbedJob, options: LoadOptions, keep_alive_s: float | None = None
    ) -> Embedded:
        """Embed texts there."""
        link = await self._link(self.node, _lane(job))
        return await link.one(EmbedAsk(link.number(), _ref(model), job, options, keep_alive_s), Embedded)

    async def render(self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None = None) -> Rendered:
        """Only render the job's prompt there."""
        link = await self._link(self.node, _lane(job))
        return await link.one(RenderAsk(link.number(), _ref(model), job, options, keep_alive_s), Rendered)

    async def load(
        self, model: Model, options: LoadOptions, keep_alive_s: float | None = None, *, embedding: bool = False
    ) -> LoadedModel:
        """Have the model in memory there."""
        link = await self._link(self.node, "prompt")
        ask = LoadAsk(link.number(), _ref(model), options, keep_alive_s, embedding)
        return (await link.one(ask, Ready)).model

    async def unload(self, name: ModelName) -> bool:
        """Forget the model there, as soon as its running requests are done; False: it was not loaded."""
        link = await self._link(self.node, "prompt")
        try:
            async with asyncio.timeout(UNLOAD_LIMIT_S):
                return (await link.one(UnloadAsk(link.number(), name.full), Unloaded)).found
        except TimeoutError:
            raise PeerLost(self.node, "it did not answer in time") from None


def _ref(model: Model) -> ModelRef:
    return ModelRef(model.name.full, model.weights_digest.hex)


def _lane(job: Job | EmbedJob) -> Lane:
    return "bulky" if _content_bytes(job) > BULKY_BYTES else "prompt"


def _content_bytes(job: Job | EmbedJob) -> int:
    """Roughly how long the request will be."""
    if isinstance(job, EmbedJob):
        return sum(map(len, job.inputs))
    if isinstance(job.prompt, Chat):
        messages = job.prompt.messages
        return sum(len(message.content) + sum(map(len, message.images)) for message in messages)
    return 0
