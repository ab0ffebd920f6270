"""The daemon's side of `rayctl`: a child that is asked, waited for within limits, and killed when it is late."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from node.ray_session import processes
from node.ray_session.errors import RayCommandFailed, RayControlLost
from node.ray_session.plan import SessionPlan, driver_environment

log = logging.getLogger(__name__)

# `ray.init` takes 0.1-0.6 s and gives up after 5 s with our settings; importing ray takes 0.4 s, on a busy machine 3.
CONNECT_LIMIT_S = 15.0
# An actor needs a Python process with ray imported.
PLACE_LIMIT_S = 15.0
EXIT_S = 2.0
MAX_LINE_BYTES = 1 << 20


class RayControl:
    """One child and its answers, one question at a time."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._child, self._in, self._out = child, child.stdin, child.stdout
        self._number = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, plan: SessionPlan, environ: Mapping[str, str], *, command: Sequence[str] | None = None
    ) -> AsyncIterator[RayControl]:
        """A connected driver; it is gone when the block is left. Raises RayControlLost, RayCommandFailed, OSError.

        Args:
            command: another program than `rayctl`.
        """
        child = await asyncio.create_subprocess_exec(
            *(command or rayctl_command(plan)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=plan.folder,
            env=driver_environment(plan, environ),
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        control = cls(child)
        try:
            await control._answer(CONNECT_LIMIT_S, "connect")
            yield control
        finally:
            await asyncio.shield(control._end())

    async def nodes(self) -> list[dict[str, Any]]:
        """The nodes that Ray knows: `ray_node`, `address`, `alive` and our own id, `node`."""
        result = await self._ask("nodes", CONNECT_LIMIT_S)
        return list(result)

    async def place_coordinator(self, actor: str, settings: Mapping[str, object]) -> str:
        """See that the coordinator lives; its name."""
        return str(await self._ask("place_coordinator", PLACE_LIMIT_S, actor=actor, settings=dict(settings)))

    async def place_agent(self, actor: str) -> str:
        """See that this node's agent lives; its name."""
        return str(await self._ask("place_agent", PLACE_LIMIT_S, actor=actor))

    async def _ask(self, what: str, limit_s: float, **words: object) -> Any:
        self._number += 1
        self._in.write(json.dumps({"id": self._number, "do": what, "with": words}).encode() + b"\n")
        try:
            await self._in.drain()
        except ConnectionError:
            raise RayControlLost("it ended") from None
        return await self._answer(limit_s, what)

    async def _answer(self, limit_s: float, what: str) -> Any:
        try:
            async with asyncio.timeout(limit_s):
                line = await self._out.readline()
        except TimeoutError:
            processes.kill(self._child.pid)
            raise RayControlLost(f"no answer to {what!r} within {limit_s:.0f} s") from None
        except ValueError:
            raise RayControlLost("its answer was too long") from None
        if not line:
            raise RayControlLost("it ended")
        try:
            answer = json.loads(line)
            number = answer["id"]
        except (ValueError, TypeError, KeyError):
            raise RayControlLost("it answered nonsense") from None
        if number != self._number:
            raise RayControlLost("it answered another question")
        if "error" in answer:
            raise RayCommandFailed(what, str(answer["error"]))
        return answer.get("ok")

    async def _end(self) -> None:
        self._in.close()
        try:
            async with asyncio.timeout(EXIT_S):
                await self._child.wait()
        except TimeoutError:
            processes.kill(self._child.pid)
            await self._child.wait()


def rayctl_command(plan: SessionPlan) -> list[str]:
    """The driver of this node in this generation."""
    return [
        *(sys.executable, "-P", "-m", "node.ray_session.rayctl"),
        f"--address={plan.formation.gcs_address}",
        f"--node-ip={plan.address}",
        f"--node={plan.node}",
        f"--generation={plan.formation.generation}",
    ]
