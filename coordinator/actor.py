"""The Coordinator: one detached Ray actor per cluster, in which placement is decided.

Ray starts it again if its process dies; it then knows nothing, and every agent that asks is told to introduce
itself and bring its report anew. What it decides, and for whom, is `Switchboard`'s; here are the wires: one outbox
for each agent, so that a slow or dying one holds up nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.placement import Patience, Placement
from coordinator.switchboard import Heard, Letter, Switchboard
from coordinator.wire import encode_order

if TYPE_CHECKING:
    from node.identity import NodeId
else:
    NodeId = str  # nothing here has use for cryptography, which the identity package brings

log = logging.getLogger(__name__)

TICK_S = 1.0
CALL_LIMIT_S = 5.0
RETRY_S = 0.3
# Orders that an agent has not taken; older ones have been given again, or mean nothing any more.
MAX_UNSENT = 1024


class CoordinatorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the coordinator says of itself."""

    generation: int
    pid: int
    uptime_s: float
    nodes: tuple[str, ...]


class Coordinator:
    """An actor; agents call `hello` and `take`."""

    async def __init__(self, *, generation: int, settings: Mapping[str, Any]) -> None:  # type: ignore[misc]
        """`settings`: fields of `Patience` that differ from the defaults."""
        self._board = Switchboard(generation, Placement(NodeId(""), msgspec.convert(dict(settings), Patience)))
        self._outboxes: dict[NodeId, Outbox] = {}
        self._started_at_s = time.monotonic()
        self._ticking = asyncio.create_task(self._tick(), name="tick")

    async def ping(self) -> int:
        """Its process id."""
        return os.getpid()

    async def status(self) -> dict[str, Any]:
        """`CoordinatorStatus`, as builtin values."""
        uptime_s = time.monotonic() - self._started_at_s
        status = CoordinatorStatus(
            generation=self._board.generation, pid=os.getpid(), uptime_s=uptime_s, nodes=self._board.nodes
        )
        built: dict[str, Any] = msgspec.to_builtins(status)
        return built

    async def hello(self, node: str, generation: int, incarnation: str, agent: Any) -> bool:
        """An agent introduces itself; False: it is of another generation."""
        known = self._board.hello(NodeId(node), generation, incarnation, time.monotonic())
        if known:
            log.info("agent of node %s", node)
            if (before := self._outboxes.pop(NodeId(node), None)) is not None:
                before.close()
            self._outboxes[NodeId(node)] = Outbox(agent)
        return known

    async def take(
        self, node: str, generation: int, incarnation: str, report: bytes | None, events: Sequence[bytes]
    ) -> Heard:
        """What an agent brings; see `Switchboard.take`."""
        heard, letters = self._board.take(NodeId(node), generation, incarnation, report, events, time.monotonic())
        self._send(letters)
        return heard

    def _send(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            if (outbox := self._outboxes.get(letter.to)) is not None:
                outbox.put(encode_order(letter.order))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._send(self._board.tick(time.monotonic()))
            except Exception:
                log.exception("a tick failed")
            for node in [node for node in self._outboxes if node not in self._board.nodes]:
                self._outboxes.pop(node).close()


class Outbox:
    """Orders for one agent, delivered in order, again and again until it took them or another agent came."""

    def __init__(self, agent: Any) -> None:
        """`agent`: its Ray handle, or whatever has the same `carry_out.remote`."""
        self._agent = agent
        self._orders: deque[bytes] = deque(maxlen=MAX_UNSENT)
        self._filled = asyncio.Event()
        self._delivering = asyncio.create_task(self._deliver(), name="outbox")

    def put(self, order: bytes) -> None:
        """Deliver this, some time."""
        self._orders.append(order)
        self._filled.set()

    def close(self) -> None:
        """Deliver nothing more."""
        self._delivering.cancel()

    async def _deliver(self) -> None:
        import ray

        while True:
            await self._filled.wait()
            self._filled.clear()
            batch = tuple(self._orders)
            self._orders.clear()
            if not batch:
                continue
            try:
                async with asyncio.timeout(CALL_LIMIT_S):
                    await self._agent.carry_out.remote(batch)
            except (ray.exceptions.RayError, TimeoutError) as error:
                log.info("an agent does not take orders: %s", str(error).partition("\n")[0][:200])
                self._orders = deque((*batch, *self._orders), maxlen=MAX_UNSENT)
                self._filled.set()
                await asyncio.sleep(RETRY_S)
