"""Tell the client where its request went, in headers. A plain ASGI layer, idle without a cluster.

What happens to a stream after its first bytes can't be in a header; the last line of the native API has it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.route_trace import ROUTE_TRACE, RouteTrace

if TYPE_CHECKING:
    from api.daemon import Daemon


class RouteHeaders:
    """The layer."""

    def __init__(self, app: ASGIApp, *, daemon: Daemon) -> None:
        self._app, self._daemon = app, daemon

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with the headers on the way back."""
        if scope["type"] != "http" or self._daemon.shelf.elsewhere is None:
            await self._app(scope, receive, send)
            return
        trace = RouteTrace()
        ROUTE_TRACE.set(trace)

        async def send_with_route(message: Message) -> None:
            if message["type"] == "http.response.start" and trace.route:
                headers = [*message.get("headers", ()), (b"x-ayni-route", trace.route.encode("ascii", "replace"))]
                if trace.queue:
                    headers.append((b"x-ayni-queue", trace.queue.encode("ascii", "replace")))
                if trace.resumed:
                    headers.append((b"x-ayni-resumed", str(trace.resumed).encode()))
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_with_route)
