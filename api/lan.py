"""The LAN port: TLS 1.3, members by certificate, everybody else by token. Exists only in a cluster.

A second listener of the same event loop; who is at the other end of a connection is read from TLS once and put into
the scope of every request on it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from node.identity import CertificateRefused, peer_node_id
from node.peers import PEER

if TYPE_CHECKING:
    import socket

    from starlette.types import ASGIApp, Receive, Scope, Send

    from node.identity import NodeId

log = logging.getLogger(__name__)

HANDSHAKE_LIMIT_S = 5.0
# A connection that asks nothing for so long after its handshake is closed.
FIRST_REQUEST_LIMIT_S = 10.0
# Longer than the pools of common clients, and than other nodes keep an idle connection.
KEEP_IDLE_S = 300
MAX_CONNECTIONS = 4096
# Requests whose connection is gone notice it themselves, and tidy up.
ABORT_LIMIT_S = 1.0


class LanListener:
    """The open port. Made by `start`."""

    def __init__(self, server: asyncio.Server, state: ServerState) -> None:
        self._server, self._state = server, state

    @classmethod
    async def start(
        cls,
        app: ASGIApp,
        listener: socket.socket,
        context: ssl.SSLContext,
    ) -> LanListener:
        """Serve `app` on a listening socket."""
        config = Config(
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
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: _LanProtocol(config, state),
            sock=listener,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_LIMIT_S,
        )
        return cls(server, state)

    async def finish(self) -> None:
        """Wait for the requests that are running now; others are taken meanwhile."""
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks))

    async def close(self, limit_s: float) -> None:
        """Take no new connections, let running requests end until the limit, then close them."""
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        await self._tasks_end(limit_s)
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await self._tasks_end(ABORT_LIMIT_S)
        for task in list(self._state.tasks):
            task.cancel()

    async def _tasks_end(self, limit_s: float) -> None:
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=limit_s)


class _LanProtocol(HttpToolsProtocol):
    """HTTP on one TLS connection; puts the node at the other end into the scope of each request."""

    def __init__(self, config: Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        try:
            # A node that was removed may connect: each of its requests is refused, and so it learns why.
            peer = peer_node_id(transport.get_extra_info("ssl_object"), lambda _: False)
        except CertificateRefused as refusal:
            log.info("connection refused client=%s reason=%s", self.client, refusal)
            transport.abort()
            return
        if peer is not None:
            self.app = _with_peer(self.app, peer)
        self._waiting = self.loop.call_later(FIRST_REQUEST_LIMIT_S, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)


def _with_peer(app: Any, peer: NodeId) -> Any:
    async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
        scope[PEER] = peer
        await app(scope, receive, send)

    return with_peer
