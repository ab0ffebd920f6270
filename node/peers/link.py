"""A kept connection to one other node, as its asker: any number of asks go up, their outcomes come down.

One HTTP request carries it (see `node.peers.wire`). One task reads for all asks, so it is always read at once; what
a slow reader has not taken yet waits in its own bounded channel. When the link breaks, every open ask gets `PeerLost`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, TypeVar

import aiohttp

from node.errors import JobFailed, NodeError
from node.jobs import Delta, Embedded, Event, Failed, Rendered
from node.peers.errors import PeerLost, PeerRefused, PeerUnreachable
from node.peers.wire import (
    FRAME_HEADER_BYTES,
    MAX_FRAME_BYTES,
    Ask,
    Down,
    Fault,
    Forget,
    FrameReader,
    Nonsense,
    Outcome,
    Ready,
    RunAsk,
    Unloaded,
    Up,
    decode_down,
    error_of,
    frame,
)
from node.supervisor.channel import JobChannel

if TYPE_CHECKING:
    import ssl

    from node.identity import NodeId

log = logging.getLogger(__name__)

Single = TypeVar("Single", Embedded, Rendered, Ready, Unloaded)

LINK_PATH = "/node/link"
OPEN_LIMIT_S = 3.0
# What may wait here for the other node to read: two of the largest requests.
MAX_UNSENT_BYTES = 512 << 20
# How much is handed to the connection at once.
CHUNK_BYTES = 1 << 20
# A connection whose other end has not answered for so long is dead: twice what beats allow.
DEATH_S = 4


class Link:
    """An open link. Made by `open`; `lost` is done once it can carry nothing more."""

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._numbers = itertools.count(1)
        self._runs: dict[int, JobChannel] = {}
        self._single: dict[int, asyncio.Future[Outcome]] = {}
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._wake = asyncio.Event()
        self._response: aiohttp.ClientResponse | None = None
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, node: NodeId, session: aiohttp.ClientSession, url: str, context: ssl.SSLContext) -> Link:
        """Connect, with both certificates checked by `context`. Raises PeerUnreachable, PeerRefused."""
        link = cls(node)
        try:
            async with asyncio.timeout(OPEN_LIMIT_S):
                response = await session.post(f"{url}{LINK_PATH}", data=link._upward(), ssl=context)
        except TimeoutError:
            link.lose("it did not answer")
            raise PeerUnreachable(node, f"no answer within {OPEN_LIMIT_S:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            link.lose("it can't be reached")
            raise unreachable(node, error) from None
        link._response = response
        if response.status != 200:
            link.lose("it refused")
            raise PeerRefused(node, response.status, response.reason or "no reason given")
        if response.connection is not None and response.connection.transport is not None:
            notice_death(response.connection.transport)
        link._reading = asyncio.create_task(link._read(response), name=f"read link to {node}")
        return link

    @property
    def is_lost(self) -> bool:
        """Whether it can carry nothing more."""
        return self.lost.done()

    @property
    def open_asks(self) -> int:
        """How many asks have not ended."""
        return len(self._runs) + len(self._single)

    def number(self) -> int:
        """A number for the next ask."""
        return next(self._numbers)

    async def run(self, ask: RunAsk) -> AsyncGenerator[Event, None]:
        """Send it and yield what comes back: `Delta` ... and `Done`; closing the generator cancels it there.

        Raises: PeerLost; what the other node raised.
        """
        self._check()
        channel = self._runs[ask.number] = JobChannel(str(ask.number))
        ended = False
        try:
            self._send(ask)
            while not ended:
                event = await channel.get()
                ended = not isinstance(event, Delta)
                yield event
        except NodeError:
            ended = True
            raise
        finally:
            del self._runs[ask.number]
            if not ended:
                self._forget(ask.number)

    async def one(self, ask: Ask, kind: type[Single]) -> Single:
        """Send it and wait for its only outcome. Raises: PeerLost; what the other node raised."""
        self._check()
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._single[ask.number] = outcome
        try:
            self._send(ask)
            found = await outcome
        except asyncio.CancelledError:
            self._forget(ask.number)
            raise
        finally:
            del self._single[ask.number]
        if not isinstance(found, kind):
            raise PeerLost(self.node, "it answered with something else than was asked")
        return found

    def lose(self, reason: str) -> None:
        """Give the link up, once: every open ask gets `PeerLost`."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        self._wake.set()
        for channel in self._runs.values():
            channel.fail(self._loss())
        for outcome in self._single.values():
            if not outcome.done():
                outcome.set_exception(self._loss())
        if self._reading is not None:
            self._reading.cancel()
        if self._response is not None:
            self._response.close()

    def _check(self) -> None:
        if self.lost.done():
            raise self._loss()

    def _loss(self) -> PeerLost:
        return PeerLost(self.node, self.lost.result() if self.lost.done() else "its link broke")

    def _send(self, message: Up) -> None:
        body = frame(message)
        if len(body) > MAX_FRAME_BYTES:
            raise JobFailed(Failed(job="", kind="bad_request", message="the request is too large for another node"))
        self._unsent.append(body)
        self._unsent_bytes += len(body)
        self._wake.set()
        if self._unsent_bytes > MAX_UNSENT_BYTES:
            self.lose("it takes no more requests")

    def _forget(self, number: int) -> None:
        if not self.lost.done():
            self._send(Forget(number))

    async def _upward(self) -> AsyncIterator[bytes]:
        """The body of the request: what is to be sent, as it comes."""
        yield bytes(FRAME_HEADER_BYTES)  # an empty frame: the HTTP client sends its headers with the first bytes
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self.lost.done():
                return
            batch = b"".join(self._unsent)
            self._unsent.clear()
            self._unsent_bytes = 0
            for start in range(0, len(batch), CHUNK_BYTES):
                yield batch[start : start + CHUNK_BYTES]

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        frames = FrameReader()
        reason = "it closed the link"
        try:
            while data := await response.content.readany():
                for body in frames.feed(data):
                    for down in decode_down(body):
                        self._take(down)
        except (aiohttp.ClientError, OSError) as error:
            reason = f"the link broke ({_words(error)})"
        except Nonsense as error:
            log.error("node %s sent nonsense: %s", self.node, error)
            reason = "it sent nonsense"
        finally:
            self.lose(reason)

    def _take(self, down: Down) -> None:
        number, outcome = down.number, down.outcome
        if (channel := self._runs.get(number)) is not None:
            if isinstance(outcome, Fault):
                channel.fail(error_of(outcome, self.node))
            elif isinstance(outcome, Ready | Unloaded):
                channel.fail(PeerLost(self.node, "it answered with something else than was asked"))
            elif not channel.put(outcome):
                log.warning("ask %d to node %s cancelled: its reader is too slow", number, self.node)
                self._forget(number)
        elif (waiting := self._single.get(number)) is not None and not waiting.done():
            if isinstance(outcome, Fault):
                waiting.set_exception(error_of(outcome, self.node))
            else:
                waiting.set_result(outcome)


def notice_death(transport: asyncio.BaseTransport) -> None:
    """Have the system give a connection up whose other end says nothing for some seconds, though nothing is sent.

    Beats find out as well, but not that a node is well and only this connection is not: when an address has changed,
    or a router has forgotten it.
    """
    opened = transport.get_extra_info("socket")
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    if sys.platform == "darwin":
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, DEATH_S - 2)
    else:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEATH_S - 2)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEATH_S * 1000)


def unreachable(node: str, error: Exception) -> PeerUnreachable:
    """What a failed connection says about the other machine."""
    refused = isinstance(getattr(error, "os_error", error), ConnectionRefusedError)
    return PeerUnreachable(node, _words(error), refused)


def _words(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)[:200]
