"""Who may ask on the LAN port, and for what: a layer in front of everything, and one table of what each path takes.

1. `GET /` and `/ca.pem` answer anyone: that something is here, and the certificate to check it by.
2. A node certificate of this cluster opens everything; below `/node/` nothing else does (but for joining, where the
   invitation in the body is the credential).
3. A signed token opens the paths of its scopes, within its rates. A path in no line of the table takes "admin", so
   that a route added later is closed until somebody decides otherwise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import ApiError, NotGranted, OverLimit, Unauthenticated, fault_of
from api.metered import METERED
from api.request_watch import ASKER_NAME
from api.stream import fault_response
from coordinator.limits import Allowed, Limited, Limits, LimitTable
from node.asker import ASKER
from node.errors import Closing
from node.identity import ScopeRefused, TokenRefused
from node.peers import PEER, PREFIX, Endpoints
from node.telemetry import Telemetry

if TYPE_CHECKING:
    from node.identity import Grant, NodeId, Signed
    from node.identity import Scope as TokenScope

log = logging.getLogger(__name__)

# The scope's entry that says on whose behalf a request runs: the id of a node, or of a token.
ADMITTED: Final = "ayni.admitted"
OPEN_PATHS: Final = frozenset({"/", "/ca.pem"})
READING: Final = frozenset({"GET", "HEAD"})
# Longest prefix first where two fit. A path stands for itself and for what is below it.
SCOPES: Final[tuple[tuple[str, TokenScope], ...]] = (
    ("/api/generate", "infer"),
    ("/api/chat", "infer"),
    ("/api/embed", "infer"),
    ("/api/embeddings", "infer"),
    ("/api/tags", "infer"),
    ("/api/show", "infer"),
    ("/api/ps", "infer"),
    ("/api/version", "infer"),
    ("/v1/chat/completions", "infer"),
    ("/v1/completions", "infer"),
    ("/v1/embeddings", "infer"),
    ("/v1/models", "infer"),
    ("/v1/responses", "infer"),
    ("/v1/messages", "infer"),
    ("/metrics", "metrics"),
    ("/api/create", "models"),
    ("/api/copy", "models"),
    ("/api/delete", "models"),
    ("/api/blobs", "models"),
    ("/api/pull", "models"),
    ("/api/push", "models"),
    ("/v2", "models"),
)
# Other nodes tell twice a second what a token runs there.
HEARSAY_S = 1.0
_LIMIT_TEXTS = {
    "requests_per_minute": ("request", "a minute"),
    "tokens_per_minute": ("token", "a minute"),
    "max_parallel": ("request", "at the same time"),
}
_NEED_TEXT = "a token is needed: send 'Authorization: Bearer <token>' (see `ayni token create`)"


class Verifier(Protocol):
    """Who checks tokens; `node.identity.TokenVerifier` does."""

    def verify(self, text: str) -> Grant:
        """Raises TokenRefused."""
        ...


class TokenRates:
    """Places within the tokens' rates, by the table that all of this node's requests are counted in."""

    def __init__(self, table: LimitTable, heard: Callable[[float], Awaitable[None]] | None = None) -> None:
        """`heard`: returns at the next word from another node, at most so many seconds later; None: there are none."""
        self._table, self._heard = table, heard

    @asynccontextmanager
    async def __call__(self, grant: Grant) -> AsyncIterator[None]:
        """A place for one request, given back when the block ends. Raises OverLimit."""
        answer = await self._admit(grant)
        if isinstance(answer, Limited):
            what, per = _LIMIT_TEXTS[answer.limit]
            plural = "" if answer.allowed == 1 else "s"
            raise OverLimit(f"{answer.allowed} {what}{plural} {per}", answer.retry_after_s)
        try:
            yield
        finally:
            self._table.release(grant.token_id, time.monotonic())

    async def _admit(self, grant: Grant) -> Allowed | Limited:
        """What the table says; of a place that seems taken on another node, what it says once that has been heard.

        Else a client that asks one machine after the other would be refused for the answer that it has just got.
        """
        limits = Limits(grant.requests_per_minute, grant.tokens_per_minute, grant.max_parallel)
        until_s = time.monotonic() + HEARSAY_S
        while True:
            now_s = time.monotonic()
            answer = self._table.admit(grant.token_id, limits, now_s)
            if self._heard is None or not isinstance(answer, Limited) or not answer.by_hearsay or now_s >= until_s:
                return answer
            await self._heard(until_s - now_s)


def scope_of(path: str) -> TokenScope:
    """The scope that a token needs for this path; "admin" for whatever is in no line of the table."""
    for prefix, scope in SCOPES:
        if path == prefix or path.startswith(f"{prefix}/"):
            return scope
    return "admin"


class LanGate:
    """The LAN port's application: the door, then other nodes' endpoints or the API."""

    def __init__(
        self,
        api: ASGIApp,
        endpoints: Endpoints,
        *,
        ca_pem: bytes,
        verifier: Verifier,
        removal_of: Callable[[NodeId], Signed | None],
        admit: Callable[[Grant], AbstractAsyncContextManager[None]] = lambda _: nullcontext(),
        telemetry: Telemetry | None = None,
    ) -> None:
        """Nothing listens yet; see `api.lan`.

        Args:
            api: the same routes as on loopback.
            removal_of: by which record a node was removed; asked with each request, as connections are kept.
            admit: takes a place within a token's rates for as long as its request lasts; raises OverLimit.
            telemetry: where refusals are counted.
        """
        self._telemetry = telemetry or Telemetry()
        self._api, self._endpoints = api, endpoints
        self._ca_pem, self._verifier = ca_pem, verifier
        self._removal_of, self._admit = removal_of, admit
        self._retired = False

    def retire(self) -> None:
        """Refuse every new request but those of other nodes' daemons: this one is about to end."""
        self._retired = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        peer: NodeId | None = scope.get(PEER)
        if peer is not None and (removal := self._removal_of(peer)) is not None:
            if path.startswith(PREFIX):
                await self._endpoints.refuse_removed(removal, send)
                return
            await self._refuse(Unauthenticated("this machine was removed from the cluster"), scope, receive, send)
        elif path in OPEN_PATHS and scope["method"] in READING:
            await self._open(path)(scope, receive, send)
        elif path.startswith(PREFIX):
            if peer is None and not self._endpoints.is_open(path):
                await self._refuse(Unauthenticated("a node certificate is needed"), scope, receive, send)
            else:
                await self._endpoints(scope, receive, send)
        elif self._retired:
            await self._refuse(Closing(), scope, receive, send)
        elif peer is not None:
            scope[ADMITTED] = peer
            await self._api(scope, receive, send)
        else:
            await self._serve_token(path, scope, receive, send)

    def _open(self, path: str) -> ASGIApp:
        return Response(self._ca_pem, media_type="application/x-pem-file") if path == "/ca.pem" else self._api

    async def _serve_token(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            grant = self._verifier.verify(token_in(scope))
            grant.require(scope_of(path))
            place = self._admit(grant) if path in METERED else nullcontext()
            scope[ASKER_NAME], scope[ADMITTED] = grant.name, grant.token_id
            async with place:
                with _asking(grant):
                    await self._api(scope, receive, send)
        except TokenRefused as refusal:
            await self._refuse(Unauthenticated(str(refusal)), scope, receive, send)
        except ScopeRefused as refusal:
            await self._refuse(NotGranted(str(refusal)), scope, receive, send)
        except ApiError as error:
            await self._refuse(error, scope, receive, send)

    async def _refuse(self, error: ApiError | Closing, scope: Scope, receive: Receive, send: Send) -> None:
        fault = fault_of(error)
        self._telemetry.metrics.lan_refusals.labels(str(fault.status)).inc()
        log.info("refused client=%s status=%d error=%s", (scope.get("client") or ("?",))[0], fault.status, error)
        await fault_response(fault, scope["path"])(scope, receive, send)


def token_in(scope: Scope) -> str:
    """The token that a request brings. Raises Unauthenticated: none, or more than one."""
    found = []
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            found.append(value[7:].strip())
        elif name == b"x-api-key":
            found.append(value.strip())
    if len(set(found)) != 1 or not found[0]:
        raise Unauthenticated(_NEED_TEXT)
    return bytes(found[0]).decode("latin-1")


@contextmanager
def _asking(grant: Grant) -> Iterator[None]:
    """What is done in the block is done on behalf of the token's holder."""
    before = ASKER.set(grant)
    try:
        yield
    finally:
        ASKER.reset(before)
