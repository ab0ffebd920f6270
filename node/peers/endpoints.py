"""The paths below `/node/`, for other nodes only: the link that carries work, and calls with one answer each.

A plain ASGI application. Who calls has been established by TLS and stands in the scope; only a call that is
`open_to_strangers` (joining) answers anyone, and checks the credential in its own body. How many strangers there can be
at once is up to the port (`api.lan`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from node.errors import NodeError
from node.identity import IdentityError
from node.identity import refusal as refused_as
from node.peers.errors import CallRefused
from node.peers.link import LINK_PATH
from node.peers.session import Message, Receive, Send, Session
from node.peers.wire import Fault, Nonsense, decode_as, fault_of

if TYPE_CHECKING:
    from node.identity import NodeId, Signed
    from node.peers.shared_models import SharedModels
    from node.serves import Serves

log = logging.getLogger(__name__)

PREFIX: Final = "/node/"
# The scope's entry that says which node's certificate came with the connection; None or absent: none.
PEER: Final = "ayni.peer"
# A fault whose only field is what `node.identity.refusal` makes of an IdentityError.
IDENTITY_FAULT: Final = "IdentityError"
# A fault whose only field is the signed record by which the asking node was removed.
REMOVAL_FAULT: Final = "Removal"
MAX_CALL_BYTES = 8 << 20
MAX_STRANGER_BYTES = 64 << 10
BODY_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the node whose certificate was shown (None: a stranger), and from which address."""

    node: NodeId | None
    address: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call with one msgpack body and one msgpack answer. `answer` raises NodeError, IdentityError."""

    request: Any
    answer: Callable[[Caller, Any], Awaitable[Any]]
    open_to_strangers: bool = False


class Endpoints:
    """What this node answers other nodes; `calls` by the path's end. More calls may be added while it runs."""

    def __init__(self, node: Serves, models: SharedModels, calls: Mapping[str, Call]) -> None:
        self.calls = dict(calls)
        self._node, self._models = node, models
        self._sessions: set[Session] = set()
        self._closing = False

    def is_open(self, path: str) -> bool:
        """Whether strangers may call this path."""
        call = self.calls.get(path.removeprefix(PREFIX))
        return call is not None and call.open_to_strangers

    @property
    def linked(self) -> frozenset[NodeId]:
        """Whose links are open."""
        return frozenset(session.peer for session in self._sessions)

    def end_sessions(self, node: NodeId | None = None) -> None:
        """End the links of one node, or of all."""
        for session in list(self._sessions):
            if node is None or session.peer == node:
                session.close()

    def close(self) -> None:
        """End all links and take no new ones."""
        self._closing = True
        self.end_sessions()

    async def refuse_removed(self, proof: Signed, send: Send) -> None:
        """Tell a node that was removed why nothing is answered."""
        await _answer(send, 401, Fault(REMOVAL_FAULT, (proof,)))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        peer: NodeId | None = scope.get(PEER)
        path, method = scope["path"], scope["method"]
        call = self.calls.get(path.removeprefix(PREFIX))
        if peer is None and (call is None or not call.open_to_strangers):
            await _answer(send, 401, Fault("CallRefused", (401, "a node certificate is needed")))
        elif method != "POST" or (call is None and path != LINK_PATH):
            await _answer(send, 404, Fault("CallRefused", (404, f"no such call: {method[:16]} {path[:100]}")))
        elif call is not None:
            address = (scope.get("client") or ("",))[0]
            await self._call(call, Caller(peer, address), receive, send)
        elif self._closing:
            await _answer(send, 503, Fault("Closing"))
        else:
            assert peer is not None
            await self._link(peer, receive, send)

    async def _link(self, peer: NodeId, receive: Receive, send: Send) -> None:
        session = Session(peer, self._node, self._models)
        self._sessions.add(session)
        log.debug("link opened peer=%s", peer)
        try:
            await session.serve(receive, send)
        finally:
            self._sessions.discard(session)
            log.debug("link closed peer=%s", peer)

    async def _call(self, call: Call, caller: Caller, receive: Receive, send: Send) -> None:
        try:
            body = await _body(receive, MAX_STRANGER_BYTES if caller.node is None else MAX_CALL_BYTES)
            await _answer(send, 200, await call.answer(caller, decode_as(call.request, body)))
        except CallRefused as refusal:
            await _answer(send, refusal.status, Fault("CallRefused", (refusal.status, refusal.reason)))
        except IdentityError as refusal:
            await _answer(send, 403, Fault(IDENTITY_FAULT, (refused_as(refusal),)))
        except Nonsense as error:
            await _answer(send, 400, Fault("CallRefused", (400, f"not understood: {error}"[:500])))
        except NodeError as error:
            await _answer(send, 503, fault_of(error))


async def _body(receive: Receive, limit_bytes: int) -> bytes:
    """The whole body. Raises CallRefused: too long, too slow, or cut off."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_LIMIT_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise CallRefused(400, "the body ended early")
                body += message.get("body", b"")
                if len(body) > limit_bytes:
                    raise CallRefused(413, f"at most {limit_bytes} bytes are read")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise CallRefused(408, "the body took too long") from None


async def _answer(send: Send, status: int, value: Any) -> None:
    body = msgspec.msgpack.encode(value)
    headers = [(b"content-type", b"application/vnd.msgpack"), (b"content-length", str(len(body)).encode())]
    if status >= 400:
        headers.append((b"connection", b"close"))  # the rest of the body may still be on its way
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
