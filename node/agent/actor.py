"""The NodeAgent: a detached Ray actor, one on each node, in which an `AgentLink` lives.

The class is a plain one; `rayctl` makes an actor of it. It lives in a worker process of the raylet and finds the
daemon's socket in its environment.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.agent.link import AgentLink, CoordinatorLost, Heard, Stale
from node.agent.protocol import Hello

if TYPE_CHECKING:
    from node.identity import NodeId
else:
    NodeId = str

log = logging.getLogger(__name__)

COORDINATOR = "coordinator"
NAMESPACE = "ayni"
SOCKET_VARIABLE = "AYNI_AGENT_SOCKET"


class NodeAgent:
    """An actor. Ray starts it again if its process dies; the coordinator calls `carry_out`."""

    async def __init__(self, *, node: str, generation: int, incarnation: str) -> None:  # type: ignore[misc]
        """`incarnation`: the Ray node it was made for."""
        import ray

        self._handle = ray.get_runtime_context().current_actor
        self._link = AgentLink(
            Hello(node=NodeId(node), generation=generation, incarnation=incarnation, pid=os.getpid()),
            Path(os.environ[SOCKET_VARIABLE]),
            RayCoordination(node, generation, incarnation, handle=self._handle),
        )
        self._serving = asyncio.create_task(self._serve(), name="agent link")

    async def ping(self) -> int:
        """Its process id."""
        return os.getpid()

    async def carry_out(self, actions: Sequence[bytes]) -> None:
        """Pass actions on to the daemon."""
        self._link.deliver(actions)

    async def _serve(self) -> None:
        import ray

        try:
            await self._link.run()
        except* Stale as stale:
            log.warning("the agent ends: %s", stale.exceptions[0])
            # Ray starts an actor again that just ends; this one is to stay away.
            await asyncio.to_thread(ray.kill, self._handle, no_restart=True)
        except* Exception:
            log.exception("the agent broke, and is started again")
            os._exit(1)


class RayCoordination:
    """The coordinator actor, found by name and asked through Ray."""

    def __init__(self, node: str, generation: int, incarnation: str, *, handle: Any) -> None:
        self._node, self._generation, self._incarnation, self._self = node, generation, incarnation, handle
        self._actor: Any = None

    async def hello(self) -> None:
        """Find the coordinator and introduce this agent. Raises CoordinatorLost, Stale."""
        import ray

        try:
            self._actor = await asyncio.to_thread(ray.get_actor, COORDINATOR, namespace=NAMESPACE)
        except (ValueError, ray.exceptions.RayError) as error:
            raise CoordinatorLost(f"not found: {_first_line(error)}") from None
        is_known = await self._ask(
            self._actor.hello.remote(self._node, self._generation, self._incarnation, self._self)
        )
        if not is_known:
            raise Stale(f"the coordinator is not of generation {self._generation}")

    async def take(self, report: bytes | None, events: Sequence[bytes]) -> Heard:
        """Hand over. Raises CoordinatorLost."""
        heard: Heard = await self._ask(
            self._actor.take.remote(self._node, self._generation, self._incarnation, report, list(events))
        )
        return heard

    async def _ask(self, reference: Any) -> Any:
        import ray

        try:
            return await reference
        except ray.exceptions.RayError as error:
            raise CoordinatorLost(_first_line(error)) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
