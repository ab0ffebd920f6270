"""Requests of this node in fair order: as many go out for a model as its machines can work on, the others wait here.

A waiting request holds no connection to another machine and no place in a runner. Which one goes next is
`coordinator.queue`'s decision; how many may go follows from the view.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coordinator.queue import FairQueue, QueueRefused, Share, Ticket
from node.asker import ASKER
from node.errors import QueueFull
from node.report import WeightsDigest
from node.route_trace import ROUTE_TRACE
from node.telemetry import Telemetry

if TYPE_CHECKING:
    from coordinator.cluster_view import ClusterView
    from node.jobs import Embedded, EmbedJob, Event, Job, Rendered
    from node.report import ResidentModel
    from node.serves import Node
    from node.supervisor import LoadedModel, LoadOptions
    from registry import Model, ModelName

log = logging.getLogger(__name__)

# Where a model is in no memory yet: enough to have it loaded, and to have its first places filled at once.
UNLOADED_PLACES = 4
# Requests of other nodes end, and models are loaded, without a word to us: look again after this.
LOOK_S = 0.25
WAIT_LIMIT_S = 900.0
# Who asks without a token: this machine's own user, and other nodes.
NOBODY = ""


@dataclass(slots=True)
class _Line:
    """One model's requests: those under way, and those that wait."""

    model: str
    queue: FairQueue
    under_way: int = 0
    turns: dict[int, asyncio.Future[None]] = field(default_factory=dict)


class Turns:
    """The cluster, asked in turn."""

    def __init__(self, node: Node, cluster: ClusterView, *, limit: int, telemetry: Telemetry | None = None) -> None:
        """`limit`: requests that may wait for one model."""
        self._node, self._cluster, self._limit = node, cluster, limit
        self._telemetry = telemetry or Telemetry()
        self._lines: dict[tuple[str, bool], _Line] = {}

    async def run(
        self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """As the dispatcher's. Raises QueueFull too: as many wait as may."""
        async with (
            self._turn(model, embedding=False),
            aclosing(self._node.run(model, job, options, keep_alive_s)) as events,
        ):
            async for event in events:
                yield event

    async def embed(
        self, model: Model, job: EmbedJob, options: LoadOptions, keep_alive_s: float | None = None
    ) -> Embedded:
        """As the dispatcher's. Raises QueueFull too."""
        async with self._turn(model, embedding=True):
            return await self._node.embed(model, job, options, keep_alive_s)

    async def render(self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None = None) -> Rendered:
        """As the dispatcher's."""
        return await self._node.render(model, job, options, keep_alive_s)

    async def load(
        self, model: Model, options: LoadOptions, keep_alive_s: float | None = None, *, embedding: bool = False
    ) -> LoadedModel:
        """As the dispatcher's."""
        return await self._node.load(model, options, keep_alive_s, embedding=embedding)

    async def unload(self, name: ModelName) -> bool:
        """As the dispatcher's."""
        return await self._node.unload(name)

    def loaded(self) -> list[LoadedModel]:
        """As the dispatcher's."""
        return self._node.loaded()

    def waiting(self) -> dict[WeightsDigest, int]:
        """Requests that wait here, by what has to be in memory for them."""
        found: Counter[WeightsDigest] = Counter()
        for (weights, _), line in self._lines.items():
            found[WeightsDigest(weights)] += len(line.queue)
        return dict(+found)

    def lengths(self) -> Counter[str]:
        """Requests that wait here, by the model's name."""
        found: Counter[str] = Counter()
        for line in self._lines.values():
            found[line.model] += len(line.queue)
        return found

    @asynccontextmanager
    async def _turn(self, model: Model, *, embedding: bool) -> AsyncIterator[None]:
        key = (str(model.weights_digest), embedding)
        line = self._lines.setdefault(key, _Line(str(model.name), FairQueue(self._limit, started_s=time.monotonic())))
        try:
            if len(line.queue) or line.under_way >= self._places(key, line):
                await self._wait(key, line)
            else:
                line.under_way += 1
            try:
                yield
            finally:
                line.under_way -= 1
                self._call(key, line)
        finally:
            if not line.under_way and not len(line.queue):
                self._lines.pop(key, None)

    async def _wait(self, key: tuple[str, bool], line: _Line) -> None:
        """Wait for the request's turn; it counts as under way then. Raises QueueFull."""
        grant = ASKER.get()
        client, share = (grant.token_id, Share(grant.weight, grant.priority)) if grant else (NOBODY, Share())
        if (interval_s := self._interval_s(key)) is not None:
            line.queue.expect(interval_s)
        found = line.queue.push(client, time.monotonic(), share=share)
        if isinstance(found, QueueRefused):
            raise QueueFull(found.waiting, found.retry_after_s)
        if found.displaced is not None:
            displaced = line.turns.pop(found.displaced.number, None)
            if displaced is not None and not displaced.done():
                displaced.set_exception(QueueFull(len(line.queue), found.retry_after_s))
        ticket = found.ticket
        turn = line.turns[ticket.number] = asyncio.get_running_loop().create_future()
        came_s = time.monotonic()
        if (trace := ROUTE_TRACE.get()) is not None:
            trace.queue = f"{line.queue.position(ticket)}; wait={line.queue.wait_s(ticket):.1f}s"
        try:
            async with asyncio.timeout(WAIT_LIMIT_S):
                while not turn.done():
                    await asyncio.wait({turn}, timeout=LOOK_S)
                    self._call(key, line)
            turn.result()
        except BaseException as error:
            self._give_up(key, line, ticket, turn)
            if isinstance(error, TimeoutError):
                raise QueueFull(len(line.queue), line.queue.retry_after_s()) from None
            raise
        finally:
            waited_s = time.monotonic() - came_s
            self._telemetry.metrics.waited(line.model, waited_s)
            if trace is not None:
                trace.waited_s += waited_s

    def _give_up(self, key: tuple[str, bool], line: _Line, ticket: Ticket, turn: asyncio.Future[None]) -> None:
        """The request waits no longer; a turn that it had got meanwhile is another one's."""
        line.turns.pop(ticket.number, None)
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            line.under_way -= 1
            self._call(key, line)
        else:
            turn.cancel()
            line.queue.remove(ticket)

    def _call(self, key: tuple[str, bool], line: _Line) -> None:
        """Let as many go as there are places."""
        while len(line.queue) and line.under_way < self._places(key, line):
            ticket = line.queue.pop(time.monotonic())
            if ticket is None:
                return
            turn = line.turns.pop(ticket.number, None)
            if turn is not None and not turn.done():
                line.under_way += 1
                turn.set_result(None)

    def _places(self, key: tuple[str, bool], line: _Line) -> int:
        """How many requests of this node the model's machines can work on now; at least one."""
        up = self._up(key)
        if not up:
            return UNLOADED_PLACES
        busy = sum(resident.active + resident.queued for resident in up)
        of_others = max(0, busy - line.under_way)
        return max(1, sum(resident.parallel for resident in up) - of_others)

    def _interval_s(self, key: tuple[str, bool]) -> float | None:
        """How often a place becomes free on the model's machines, by what requests took there; None: unknown."""
        rate = sum(resident.parallel / resident.mean_job_s for resident in self._up(key) if resident.mean_job_s)
        return 1 / rate if rate else None

    def _up(self, key: tuple[str, bool]) -> list[ResidentModel]:
        hosts = self._cluster.now.hosts(WeightsDigest(key[0]), embedding=key[1]).values()
        return [host.resident for host in hosts if host.report.state == "up"]
