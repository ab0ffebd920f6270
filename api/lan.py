"""The LAN port: TLS 1.3, members by certificate, everybody else by token. Exists only in a cluster.

A second listener of the same event loop; who is at the other end of a connection is read from TLS once and put into
the scope of every request on it. Who has shown neither certificate nor token is a stranger: strangers' connections end
soon, and are few enough that they can't take those of others.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Any

from uvicorn import Config
from uvicorn.server import ServerState

from api.bounded_http import BoundedHttp
from api.lan_gate import ADMITTED
from api.request_watch import ASKER_NAME
from node.identity import CertificateRefused, peer_node_id
from node.peers import PEER

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from node.identity import NodeId

log = logging.getLogger(__name__)

HANDSHAKE_LIMIT_S = 5.0
ACCEPT_PAUSE_S = 0.5
# From the handshake, or a later request's first byte, until the head of the request is complete.
HEAD_LIMIT_S = 10.0
# Longer than the pools of common clients, and than other nodes keep an idle connection.
KEEP_IDLE_S = 300
STRANGER_IDLE_S = 10
# In all; other members are always served.
MAX_CONNECTIONS = 4096
# A client that is no stranger shows so within milliseconds; the longest waiting one makes room for the next.
MAX_STRANGERS = 1024
MAX_STRANGERS_AT_ADDRESS = 256
# Requests whose connection is gone notice it themselves, and tidy up.
ABORT_LIMIT_S = 1.0


class LanListener:
    """The open port. Accepts by itself, as asyncio's servers tell nothing of connections before their handshake."""

    def __init__(self, app: ASGIApp, listener: socket.socket, context: ssl.SSLContext) -> None:
        """Serve `app` on a listening socket, which is closed in the end."""
        self._config = Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_IDLE_S,
            limit_concurrency=MAX_CONNECTIONS,
        )
        self._config.load()
        self._listener, self._context = listener, context
        self._state, self._strangers = ServerState(), _Strangers()
        self._accepting = asyncio.create_task(self._accept(), name="accept at the LAN port")

    async def finish(self) -> None:
        """Wait for the requests that are running now; others are taken meanwhile."""
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks))

    def drop_revoked(self, is_revoked: Callable[[str], bool]) -> None:
        """Close the connections on which a request runs for a node or a token, by its id, that counts no more."""
        for connection in list(self._state.connections):
            assert isinstance(connection, _LanProtocol)
            asker = connection.admitted
            if asker is not None and is_revoked(asker):
                log.info("connection closed client=%s: %s was revoked", connection.address, asker)
                connection.drop()

    async def close(self, limit_s: float) -> None:
        """Take no new connections, let running requests end until the limit, then close them."""
        self._accepting.cancel()
        await asyncio.wait({self._accepting})
        self._listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        await self._tasks_end(limit_s)
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        self._strangers.close()
        await self._tasks_end(ABORT_LIMIT_S)
        for task in list(self._state.tasks):
            task.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, (address, *_) = await loop.sock_accept(self._listener)
            except OSError as error:  # mostly that this process may open no more files
                log.warning("no connection accepted: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            connection = _LanProtocol(self._config, self._state, self._strangers, address)
            connection.greet(accepted, self._context)
            self._strangers.take(connection)
            await asyncio.sleep(0)  # whoever connects fast enough would otherwise be all that is attended to

    async def _tasks_end(self, limit_s: float) -> None:
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=limit_s)


class _LanProtocol(BoundedHttp):
    """HTTP on one TLS connection; puts the node at the other end into the scope of each request."""

    def __init__(self, config: Config, state: ServerState, strangers: _Strangers, address: str) -> None:
        """`address`: where the other end is."""
        super().__init__(config, state, {})
        self.address = address
        self._strangers = strangers
        self._peer: NodeId | None = None
        self._greeting: asyncio.Task[None] | None = None
        self._head_due: asyncio.TimerHandle | None = None

    @property
    def is_stranger(self) -> bool:
        """Whether neither a certificate nor, with the last request, a token that counts was shown."""
        return self._peer is None and (self.cycle is None or ASKER_NAME not in self.cycle.scope)

    @property
    def admitted(self) -> str | None:
        """On whose behalf a request runs: the id of a node or of a token; None: nobody's, or there is no request."""
        asker = self.cycle.scope.get(ADMITTED) if self.answering else None
        return asker if isinstance(asker, str) else None

    def greet(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        """Begin the handshake on a connection that was accepted."""
        self._greeting = asyncio.create_task(self._shake_hands(accepted, context), name="handshake")

    def drop(self) -> None:
        """Close the connection at once, in whatever state it is."""
        self._strangers.forget(self)
        if self.transport is not None:
            self.transport.abort()
        elif self._greeting is not None:
            self._greeting.cancel()

    async def _shake_hands(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        try:
            await self.loop.connect_accepted_socket(
                lambda: self, accepted, ssl=context, ssl_handshake_timeout=HANDSHAKE_LIMIT_S
            )
        except OSError as error:  # those of TLS, of the connection and of time all are
            log.debug("no handshake client=%s error=%s", self.address, error)
            self._strangers.forget(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        try:
            # A node that was removed may connect: each of its requests is refused, and so it learns why.
            self._peer = peer_node_id(transport.get_extra_info("ssl_object"), lambda _: False)
        except CertificateRefused as refusal:
            log.info("connection refused client=%s reason=%s", self.client, refusal)
            transport.abort()
            return
        if self._peer is not None:
            self._strangers.forget(self)
            self.app = _with_peer(self.app, self._peer)
            self.limit_concurrency = None
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.answering:
            return
        if self.in_body and not self.is_stranger:
            # Some clients send all of a file that is here already, and was answered for at once, before they listen.
            self.timeout_keep_alive_task = self.loop.call_later(KEEP_IDLE_S, self.timeout_keep_alive_handler)
        else:
            self._expect_head()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._expect_nothing()

    def on_response_complete(self) -> None:
        self.timeout_keep_alive = STRANGER_IDLE_S if self.is_stranger else KEEP_IDLE_S
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._strangers.forget(self)
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._head_due is None and not self.transport.is_closing():
            self._head_due = self.loop.call_later(HEAD_LIMIT_S, self.transport.abort)

    def _expect_nothing(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


class _Strangers:
    """The connections whose other end may be a stranger, the oldest first."""

    def __init__(self) -> None:
        self._connections: dict[_LanProtocol, None] = {}

    def take(self, connection: _LanProtocol) -> None:
        """Add a connection; where there are too many, the oldest is closed."""
        strangers = [each for each in self._connections if each.is_stranger]
        near = [each for each in strangers if each.address == connection.address]
        if len(near) >= MAX_STRANGERS_AT_ADDRESS:
            near[0].drop()
        elif len(strangers) >= MAX_STRANGERS:
            strangers[0].drop()
        self._connections[connection] = None

    def forget(self, connection: _LanProtocol) -> None:
        """It is closed, or known to be no stranger's."""
        self._connections.pop(connection, None)

    def close(self) -> None:
        """Close them all."""
        for each in list(self._connections):
            each.drop()


def _with_peer(app: Any, peer: NodeId) -> Any:
    async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
        scope[PEER] = peer
        await app(scope, receive, send)

    return with_peer
