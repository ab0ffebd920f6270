"""The daemon's end: a unix socket on which exactly one agent is heard, the one of the session that runs now.

An agent of another generation, another node or an earlier raylet is told to leave: that is the fence against what
an isolated machine or a cluster that was left behind may still want.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from node.agent.protocol import Act, FromDaemon, Hello, Leave, Reach, Report, Tell, Welcome, frame, read_from_agent
from node.decoding import DECODE_ERRORS

if TYPE_CHECKING:
    from node.identity import NodeId

log = logging.getLogger(__name__)

HELLO_S = 5.0
# An agent that does not read: its connection is closed, and Ray or the keeper provides another one.
MAX_UNSENT_BYTES = 32 << 20
# Events for an agent that is being restarted.
MAX_WAITING = 4096


class AgentDoor:
    """Where the agent of this node connects.

    Args:
        on_actions: called in the event loop with what the coordinator wants done.
        on_reach: called when the way to the coordinator opens ("") or closes (the reason).
    """

    def __init__(
        self,
        me: NodeId,
        on_actions: Callable[[tuple[bytes, ...]], None],
        on_reach: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._me, self._on_actions, self._on_reach = me, on_actions, on_reach
        self._server: asyncio.Server | None = None
        self._generation = 0
        self._writer: asyncio.StreamWriter | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._report: bytes | None = None
        self._waiting: list[bytes] = []
        self._trouble = "no agent"

    @property
    def trouble(self) -> str:
        """Why the coordinator does not hear this node; "": it does."""
        return self._trouble

    async def open(self, socket: Path, generation: int) -> None:
        """Listen for the agent of a new session; the one before is not heard any more. Raises OSError."""
        await self.close()
        self._generation = generation
        self._server = await asyncio.start_unix_server(self._serve, str(socket))

    async def close(self) -> None:
        """Hear no agent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in self._connections:
            writer.transport.abort()
        if server is not None:
            await server.wait_closed()
        self._set_trouble("no agent")

    def report(self, body: bytes) -> None:
        """Hand the node's newest report to the coordinator."""
        self._report = body
        self._send(Report(body=body))

    def tell(self, event: bytes) -> None:
        """Hand an event to the coordinator; it waits for an agent if there is none just now."""
        if not self._send(Tell(event=event)):
            self._waiting = [*self._waiting, event][-MAX_WAITING:]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            async with asyncio.timeout(HELLO_S):
                hello = await read_from_agent(reader)
            if reason := self._why_stale(hello):
                log.warning("an agent was sent away: %s", reason)
                writer.write(frame(Leave(reason=reason)))
                await writer.drain()
                return
            self._take_in(writer)
            while True:
                match await read_from_agent(reader):
                    case Act(actions=actions) if self._writer is writer:
                        self._on_actions(actions)
                    case Reach(coordinator=reached, reason=reason) if self._writer is writer:
                        self._set_trouble("" if reached else reason or "the coordinator does not answer")
        except (asyncio.IncompleteReadError, OSError, TimeoutError):
            log.debug("an agent has gone")
        except DECODE_ERRORS as error:
            log.error("an agent sent nonsense: %s", error)
        finally:
            self._connections.discard(writer)
            writer.close()
            if self._writer is writer:
                self._writer = None
                self._set_trouble("no agent")

    def _why_stale(self, hello: object) -> str:
        if not isinstance(hello, Hello):
            return "it did not say who it is"
        if hello.node != self._me:
            return f"it is the agent of node {hello.node}"
        if hello.generation != self._generation:
            return f"it is of generation {hello.generation}, we are in {self._generation}"
        return ""

    def _take_in(self, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._writer = writer
        self._set_trouble("the coordinator was not reached yet")
        self._send(Welcome())
        if self._report is not None:
            self._send(Report(body=self._report))
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._send(Tell(event=event))

    def _send(self, message: FromDaemon) -> bool:
        """Whether there is an agent that gets it."""
        writer = self._writer
        if writer is None or writer.transport.is_closing():
            return False
        if writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            log.error("the agent does not read and is disconnected")
            writer.transport.abort()
            return False
        writer.write(frame(message))
        return True

    def _set_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._on_reach(trouble)
