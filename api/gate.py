"""Who may ask: the Host header must name this node, and a web page's Origin must be allowed. A plain ASGI layer.

The first stops DNS rebinding (a page of evil.example whose name suddenly resolves to 127.0.0.1 still sends its own
name as Host), the second is CORS with Ollama's rules: requests of other pages are refused, not only unreadable.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError, ForbiddenHost, ForbiddenOrigin, fault_of
from api.request_record import note_error
from api.stream import fault_response

ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
ALLOWED_HEADERS = ",".join(
    (
        "Authorization",
        "Content-Type",
        "User-Agent",
        "Accept",
        "X-Requested-With",
        "traceparent",
        "OpenAI-Beta",
        "x-stainless-arch",
        "x-stainless-async",
        "x-stainless-custom-poll-interval",
        "x-stainless-helper-method",
        "x-stainless-lang",
        "x-stainless-os",
        "x-stainless-package-version",
        "x-stainless-poll-helper",
        "x-stainless-retry-count",
        "x-stainless-runtime",
        "x-stainless-runtime-version",
        "x-stainless-timeout",
    )
)
PREFLIGHT_AGE_S = 12 * 3600


class HostRule:
    """Which Host headers name this node: loopback always, what is configured, and where it is bound.

    A node bound to more than loopback is reached under addresses that it cannot all know. An address is safe: no
    page can be served from it but our own; only names can be rebound.
    """

    def __init__(self, bound_host: str, allowed_hosts: Iterable[str]) -> None:
        bound = _address(bound_host)
        self._any_address = bound is not None and not bound.is_loopback
        self._names = {host.lower().strip("[]") for host in (*allowed_hosts, bound_host)}
        if self._any_address:
            self._names.add(socket.gethostname().lower())

    def allows(self, header: str) -> bool:
        """Whether this Host header, port and all, is one of ours; an absent one (HTTP/1.0) is."""
        host = _without_port(header.strip().lower())
        if host in ("", "localhost") or host.endswith(".localhost") or host in self._names:
            return True
        address = _address(host)
        return address is not None and (address.is_loopback or self._any_address)


class AnyHost:
    """For a port that asks for a credential: a rebound name gives a page nothing without one."""

    def allows(self, header: str) -> bool:
        """Whether this Host header will do."""
        return True


class OriginRule:
    """Which web pages may use this node; `*` in a pattern stands for any text, a lone `*` for every page."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._any = "*" in patterns
        parts = ["[^/]*".join(re.escape(part) for part in pattern.lower().split("*")) for pattern in patterns]
        self._pattern = re.compile("|".join(parts) or r"(?!)")

    def allows(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may; `host` is the Host header: our own pages always may."""
        text = origin.lower()
        if self._any or text in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return True
        return bool(self._pattern.fullmatch(text))


class Gate:
    """The layer around the application."""

    def __init__(self, app: ASGIApp, *, hosts: HostRule | AnyHost, origins: OriginRule) -> None:
        self._app, self._hosts, self._origins = app, hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, answer a preflight, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1")
        if not self._hosts.allows(host):
            await _refuse(ForbiddenHost(host), scope, receive, send)
        elif not origin:
            await self._app(scope, receive, send)
        elif not self._origins.allows(origin, host):
            await _refuse(ForbiddenOrigin(origin), scope, receive, send)
        elif scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await _preflight(origin)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_origin(send, origin))


def _with_origin(send: Send, origin: str) -> Send:
    async def send_with_origin(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
            message["headers"] = [*message.get("headers", ()), *extra]
        await send(message)

    return send_with_origin


def _preflight(origin: str) -> Response:
    return Response(
        status_code=204,
        headers={
            "access-control-allow-origin": origin,
            "access-control-allow-methods": ALLOWED_METHODS,
            "access-control-allow-headers": ALLOWED_HEADERS,
            "access-control-max-age": str(PREFLIGHT_AGE_S),
            "vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        },
    )


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    fault = fault_of(error)
    note_error(error, fault.status)
    await fault_response(fault, scope["path"])(scope, receive, send)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
