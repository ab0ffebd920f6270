"""A kept connection from one other node, as its server: asks come in, each runs in a task, outcomes go back together.

Whatever became ready since the last write goes out as one frame. The asker closes the connection to cancel
everything, or sends `Forget` to cancel one ask; what it does not read in time ends its session, nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias

from node.errors import NodeError, QueueFull
from node.jobs import Done
from node.peers.wire import (
    Ask,
    Down,
    EmbedAsk,
    Fault,
    Forget,
    FrameReader,
    LoadAsk,
    Nonsense,
    Outcome,
    Ready,
    RenderAsk,
    RunAsk,
    UnloadAsk,
    Unloaded,
    Up,
    decode_up,
    fault_of,
    frame,
)
from node.supervisor.channel import event_bytes
from node.telemetry import parse_traceparent, trace_id_of
from registry import ModelName, RegistryError

if TYPE_CHECKING:
    from node.identity import NodeId
    from node.peers.shared_models import SharedModels
    from node.serves import Serves

log = logging.getLogger(__name__)

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

# One asker's open asks; its own queues hold far fewer.
MAX_ASKS = 4096
# Outcomes that wait for an asker that does not read: as much as four slow readers of a runner may leave.
MAX_UNREAD_BYTES = 64 << 20
CLOSE_S = 1.0
_RETRY_AFTER_S = 1


class Session:
    """One link, from this node's end. `close` ends it from our side."""

    def __init__(self, peer: NodeId, node: Serves, models: SharedModels) -> None:
        self.peer = peer
        self._node, self._models = node, models
        self._asks: dict[int, asyncio.Task[None]] = {}
        self._ready: list[Down] = []
        self._ready_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._writing: asyncio.Task[None] | None = None

    @property
    def open_asks(self) -> int:
        """How many asks are being worked on."""
        return len(self._asks)

    async def serve(self, receive: Receive, send: Send) -> None:
        """Carry the link until the asker closes it, sends nonsense, or `close` is called. An ASGI response."""
        reading = asyncio.create_task(self._read(receive), name=f"read asks of {self.peer}")
        self._writing = asyncio.create_task(self._write(send), name=f"answer asks of {self.peer}")
        try:
            await asyncio.wait({self._writing})
            self._writing.result()
        except asyncio.CancelledError:
            if not self._writing.cancelled():
                raise
        finally:
            tasks = [reading, self._writing, *self._asks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """End the link after what is ready now; soon, if the asker does not even read that."""
        if not self._closing:
            self._closing = True
            self._wake.set()
            asyncio.get_running_loop().call_later(CLOSE_S, self._abort)

    def _abort(self) -> None:
        if self._writing is not None:
            self._writing.cancel()

    async def _write(self, send: Send) -> None:
        headers = [(b"content-type", b"application/vnd.msgpack"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._ready:
                batch, self._ready, self._ready_bytes = self._ready, [], 0
                await send({"type": "http.response.body", "body": frame(batch), "more_body": True})
            if self._closing:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return

    async def _read(self, receive: Receive) -> None:
        frames = FrameReader()
        try:
            while (message := await receive())["type"] == "http.request":
                for body in frames.feed(message.get("body", b"")):
                    if body:
                        self._take(decode_up(body))
                if not message.get("more_body", False):
                    break
        except Nonsense as error:
            log.error("node %s asked nonsense: %s", self.peer, error)
        finally:
            self.close()

    def _take(self, up: Up) -> None:
        if isinstance(up, Forget):
            if (task := self._asks.get(up.number)) is not None:
                task.cancel()
        elif up.number in self._asks:
            raise Nonsense(f"ask {up.number} is open already")
        elif len(self._asks) >= MAX_ASKS:
            self._put(up.number, fault_of(QueueFull(len(self._asks), _RETRY_AFTER_S)))
        else:
            task = asyncio.create_task(self._work(up), name=f"ask {up.number} of {self.peer}")
            self._asks[up.number] = task
            task.add_done_callback(lambda _: self._asks.pop(up.number, None))

    async def _work(self, ask: Ask) -> None:
        try:
            if isinstance(ask, RunAsk):
                await self._run(ask)
            else:
                self._put(ask.number, await self._one(ask))
        except (NodeError, RegistryError) as error:
            self._put(ask.number, fault_of(error))
        except Exception:  # the last one who can tell the asker
            log.exception("ask of node %s failed", self.peer)
            self._put(ask.number, Fault("LoadFailure", ("internal error; the log of that node's daemon says more",)))

    async def _run(self, ask: RunAsk) -> None:
        model = await self._models.find(ask.model)
        async with aclosing(self._node.run(model, ask.job, ask.options, ask.keep_alive_s)) as events:
            async for event in events:
                self._put(ask.number, event)
                if type(event) is Done:
                    usage, trace = event.usage, trace_id_of(parse_traceparent(ask.job.trace))
                    log.info(
                        "served node=%s model=%s prompt_tokens=%d cached_tokens=%d output_tokens=%d trace=%s",
                        self.peer, model.name, usage.prompt_tokens, usage.cached_tokens, usage.output_tokens, trace,
                    )  # fmt: skip

    async def _one(self, ask: EmbedAsk | RenderAsk | LoadAsk | UnloadAsk) -> Outcome:
        if isinstance(ask, UnloadAsk):
            return Unloaded(await self._node.unload(ModelName.parse(ask.name)))
        model = await self._models.find(ask.model)
        match ask:
            case EmbedAsk():
                return await self._node.embed(model, ask.job, ask.options, ask.keep_alive_s)
            case RenderAsk():
                return await self._node.render(model, ask.job, ask.options, ask.keep_alive_s)
            case LoadAsk():
                return Ready(await self._node.load(model, ask.options, ask.keep_alive_s, embedding=ask.embedding))

    def _put(self, number: int, outcome: Outcome) -> None:
        self._ready.append(Down(number, outcome))
        self._ready_bytes += _size_of(outcome)
        self._wake.set()
        if self._ready_bytes > MAX_UNREAD_BYTES and not self._closing:
            log.warning("link of node %s closed: it does not read", self.peer)
            self.close()


def _size_of(outcome: Outcome) -> int:
    match outcome:
        case Fault() | Ready() | Unloaded():
            return 256
    return event_bytes(outcome)
