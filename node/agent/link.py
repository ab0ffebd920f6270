"""The agent's work: carry reports and events from the daemon to the coordinator, and actions back.

Knows nothing of Ray: the coordinator is whatever fits `Coordination`. Both ends may vanish at any time. A
coordinator that was restarted knows nobody, so it is told everything again; a daemon that was restarted finds us
waiting at the same socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from node.agent.protocol import Act, FromAgent, Hello, Leave, Reach, Report, Tell, Welcome, frame, read_from_daemon
from node.decoding import DECODE_ERRORS

log = logging.getLogger(__name__)

Heard: TypeAlias = Literal["heard", "unknown", "stale"]

RECONNECT_S = 0.25
CALL_LIMIT_S = 5.0
RETRY_S = 0.3
# Events are small and few; a coordinator that is away this long gets the state from reports anyway.
MAX_EVENTS = 4096
MAX_EVENTS_PER_CALL = 256


class CoordinatorLost(Exception):
    """The coordinator could not be asked; it may be back soon."""


class Stale(Exception):
    """This agent has no business any more: a newer one, or a newer generation, has taken its place."""


class Coordination(Protocol):
    """The coordinator, as seen from a node."""

    async def hello(self) -> None:
        """Introduce this agent. Raises CoordinatorLost."""
        ...

    async def take(self, report: bytes | None, events: Sequence[bytes]) -> Heard:
        """Hand over a report and events. "unknown": say hello first; "stale": we are. Raises CoordinatorLost."""
        ...


class AgentLink:
    """One agent between one daemon and the coordinator."""

    def __init__(self, hello: Hello, socket: Path, coordinator: Coordination) -> None:
        self._hello, self._socket, self._coordinator = hello, socket, coordinator
        self._report: bytes | None = None
        self._is_new_report = False
        self._events: deque[bytes] = deque(maxlen=MAX_EVENTS)
        self._pending = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._undelivered: deque[bytes] = deque(maxlen=MAX_EVENTS)
        self._reach: Reach | None = None

    async def run(self) -> None:
        """Serve until there is nothing to serve. Raises ExceptionGroup of Stale."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve_daemon(), name="daemon")
            group.create_task(self._serve_coordinator(), name="coordinator")

    def deliver(self, actions: Sequence[bytes]) -> None:
        """Hand actions to the daemon, now or as soon as it is back."""
        self._undelivered.extend(actions)
        self._flush()

    async def _serve_daemon(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            try:
                writer.write(frame(self._hello))
                await self._listen(reader, writer)
            except (asyncio.IncompleteReadError, OSError, *DECODE_ERRORS) as error:
                log.info("lost the daemon: %s", error)
            finally:
                self._writer = None
                writer.close()
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            match await read_from_daemon(reader):
                case Welcome():
                    self._writer = writer
                    if self._reach is not None:
                        self._send(self._reach)
                    self._flush()
                case Leave(reason=reason):
                    raise Stale(reason)
                case Report(body=body):
                    self._report, self._is_new_report = body, True
                    self._pending.set()
                case Tell(event=event):
                    self._events.append(event)
                    self._pending.set()

    async def _serve_coordinator(self) -> None:
        is_introduced = False
        while True:
            try:
                if not is_introduced:
                    async with asyncio.timeout(CALL_LIMIT_S):
                        await self._coordinator.hello()
                    is_introduced, self._is_new_report = True, self._report is not None
                    self._note(Reach(coordinator=True))
                if not (self._is_new_report or self._events):
                    self._pending.clear()
                    await self._pending.wait()
                is_introduced = await self._hand_over()
            except (CoordinatorLost, TimeoutError) as error:
                is_introduced = False
                self._note(Reach(coordinator=False, reason=str(error) or "it does not answer"))
                await asyncio.sleep(RETRY_S)

    async def _hand_over(self) -> bool:
        """Pass on what is there, and forget it once it was heard. Returns: whether the coordinator knows us."""
        report, self._is_new_report = (self._report if self._is_new_report else None), False
        events = [event for event, _ in zip(self._events, range(MAX_EVENTS_PER_CALL), strict=False)]
        async with asyncio.timeout(CALL_LIMIT_S):
            heard = await self._coordinator.take(report, events)
        match heard:
            case "stale":
                raise Stale("the coordinator knows a newer agent of this node")
            case "heard":
                for _ in events:
                    if self._events:
                        self._events.popleft()
        return heard != "unknown"

    def _note(self, reach: Reach) -> None:
        if reach != self._reach:
            self._reach = reach
            self._send(reach)

    def _flush(self) -> None:
        if self._undelivered and self._send(Act(actions=tuple(self._undelivered))):
            self._undelivered.clear()

    def _send(self, message: FromAgent) -> bool:
        """Whether there is a daemon that gets it."""
        writer = self._writer
        if writer is None or writer.transport.is_closing():
            return False
        writer.write(frame(message))
        return True
