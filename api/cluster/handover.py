"""Give what runs on this machine to others: before maintenance, before the daemon ends, before the machine sleeps.

A stream is moved by ending it here; whoever asked (`coordinator.dispatch`, on this node or another) goes on with it
elsewhere, from the token that the client has. So that its answer pauses only for a moment, a model that no other
machine has in memory is loaded on one first. What nobody else can do stays here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from node.errors import NodeError

if TYPE_CHECKING:
    from api.cluster.measured import MeasuredNode, Work
    from coordinator.dispatch import Dispatcher

log = logging.getLogger(__name__)

LOOK_S = 0.1
# Nobody can take a model over: another machine may come, or one have more room, after this.
RETRY_S = 2.0


class Handover:
    """This machine's work on its way to others."""

    def __init__(self, own: MeasuredNode, cluster: Dispatcher) -> None:
        """`cluster` must not send work here: this node reports that it drains."""
        self._own, self._cluster = own, cluster

    async def give_away(self) -> None:
        """Return once nothing runs here. Cancel it to leave off; what was moved by then has been moved."""
        moving: dict[object, asyncio.Task[None]] = {}
        try:
            while work := self._own.working():
                for each in work:
                    if each.key not in moving or moving[each.key].done():
                        moving[each.key] = asyncio.create_task(self._move(each), name=f"hand over {each.model.name}")
                await asyncio.sleep(LOOK_S)
        finally:
            for task in moving.values():
                task.cancel()
            await asyncio.gather(*moving.values(), return_exceptions=True)

    async def _move(self, work: Work) -> None:
        """Have another machine ready for the model, and let its requests go there."""
        try:
            ready = await self._cluster.load(work.model, work.options, embedding=work.embedding)
        except NodeError as error:
            log.info("model %s stays until its answers have ended: %s", work.model.name, error)
            await asyncio.sleep(RETRY_S)
            return
        log.info("handing over model=%s requests=%d", ready.name, work.requests)
        self._own.let_go(work.model.weights_digest, embedding=work.embedding)
