"""Signed tokens for people and programs: issue them, and check one in a fraction of a millisecond on any node.

A token is a JWT (RFC 7519) signed with the cluster's Ed25519 root key (EdDSA, RFC 8037); any JWT library can read it.
Checking is stricter than a library's: this cluster writes exactly one header, and the header's bytes are compared with
it. `alg: none`, another algorithm, another key id, `jwk`, `crit` and whatever comes next differ from it, and are never
interpreted. What the holder may do is a `Grant`; the rates in it are enforced by `coordinator.limits`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from cryptography.exceptions import InvalidSignature
from msgspec import Meta, Struct

from node.decoding import DECODE_ERRORS
from node.identity.errors import ScopeRefused, TokenFault, TokenRefused
from node.identity.ids import ClusterId
from node.identity.root import ClusterRoot, TrustAnchor

Scope: TypeAlias = Literal["infer", "models", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = ("infer", "models", "metrics", "admin")

MAX_TOKEN_CHARS = 8192
MAX_NAME_CHARS = 128
# How far the issuer's clock may be ahead of ours.
CLOCK_TOLERANCE_S = 120.0
CACHED_TOKENS = 4096
_DEFAULT_TAG = ":latest"

Pattern: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Limit: TypeAlias = Annotated[int, Meta(ge=1)] | None


class Grant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a token allows, without the token.

    Attributes:
        token_id: names the token in lists, logs and revocations; useless for anything else.
        models: shell patterns of model names; empty: every model.
        requests_per_minute, tokens_per_minute, max_parallel: None: no limit of its own.
        weight: share of a busy queue, relative to other tokens.
        priority: a greater one has a greater share. What is more than the queue distinguishes counts as its most.
    """

    token_id: Annotated[str, Meta(min_length=1, max_length=64)]
    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=4)]
    issued_at_s: int
    expires_at_s: int
    models: Annotated[tuple[Pattern, ...], Meta(max_length=32)] = ()
    requests_per_minute: Limit = None
    tokens_per_minute: Limit = None
    max_parallel: Limit = None
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0

    def allows(self, scope: Scope) -> bool:
        """Whether the holder may do things of this kind; "admin" may do all of them."""
        return scope in self.scopes or "admin" in self.scopes

    def allows_model(self, model: str) -> bool:
        """Whether the holder may use the model of this name, as written in requests and lists."""
        if not self.models:
            return True
        name = model.lower()
        forms = {name, name.removesuffix(_DEFAULT_TAG)}
        return any(fnmatchcase(form, pattern.lower()) for pattern in self.models for form in forms)

    def require(self, scope: Scope, model: str | None = None) -> None:
        """Raises ScopeRefused."""
        if not self.allows(scope):
            raise ScopeRefused(self.name, f"'{scope}'")
        if model is not None and not self.allows_model(model):
            raise ScopeRefused(self.name, f"model '{model[:128]}'")


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token: its text, which is shown once and stored nowhere, and what it allows."""

    text: str = field(repr=False)
    grant: Grant


class _Claims(Struct, frozen=True):
    aud: str
    sub: str
    jti: str
    iat: int
    exp: int
    scopes: tuple[Scope, ...]
    models: tuple[str, ...] = ()
    rpm: int | None = None
    tpm: int | None = None
    max_parallel: int | None = None
    weight: float = 1.0
    priority: int = 0


def issue_token(
    root: ClusterRoot,
    name: str,
    *,
    scopes: Collection[Scope],
    lifetime_s: float,
    now_s: float,
    models: Collection[str] = (),
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    max_parallel: int | None = None,
    weight: float = 1.0,
    priority: int = 0,
) -> IssuedToken:
    """Make a token that every node of the cluster accepts.

    Raises: ValueError: something in it is out of its bounds; the text says what.
    """
    if not (lifetime_s > 0 and math.isfinite(lifetime_s)):
        raise ValueError("a token must expire in the future")
    if not name.isprintable():
        raise ValueError("a token's name must be printable")
    grant = msgspec.convert(
        {
            "token_id": secrets.token_hex(8),
            "name": name,
            "scopes": [scope for scope in SCOPES if scope in scopes] if set(scopes) <= set(SCOPES) else list(scopes),
            "issued_at_s": int(now_s),
            "expires_at_s": int(now_s + math.ceil(lifetime_s)),
            "models": list(models),
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "max_parallel": max_parallel,
            "weight": weight,
            "priority": priority,
        },
        Grant,
    )
    payload = msgspec.json.encode(_claims(grant, root.anchor.cluster_id))
    signed_part = f"{_header(root.anchor.cluster_id)}.{_segment(payload)}"
    signature = root.signing_key.sign(signed_part.encode())
    text = f"{signed_part}.{_segment(signature)}"
    if len(text) > MAX_TOKEN_CHARS:
        raise ValueError("too many model patterns for one token")
    return IssuedToken(text, grant)


class TokenVerifier:
    """Checks tokens of one cluster. For one event loop: not for several threads at once."""

    def __init__(
        self, anchor: TrustAnchor, is_revoked: Callable[[str], bool], *, clock: Callable[[], float] = time.time
    ) -> None:
        """`is_revoked` is asked with a token's id at every check, as tokens are revoked after they were cached."""
        self._anchor = anchor
        self._header = _header(anchor.cluster_id)
        self._is_revoked = is_revoked
        self._clock = clock
        # By hash: a lookup that compared the text itself would tell by its time how much of a guess was right, and
        # a dump of this process would hold everybody's tokens. Bad tokens are not kept, so nobody can fill it.
        self._checked: dict[bytes, Grant] = {}

    def verify(self, text: str) -> Grant:
        """What the token allows. Raises TokenRefused."""
        if len(text) > MAX_TOKEN_CHARS or not text.isascii():
            raise TokenRefused("malformed")
        key = hashlib.sha256(text.encode()).digest()
        grant = self._checked.get(key)
        if grant is None:
            grant = self._check_signature(text)
            if len(self._checked) >= CACHED_TOKENS:
                self._checked.pop(next(iter(self._checked)))
            self._checked[key] = grant
        now_s = self._clock()
        if now_s >= grant.expires_at_s:
            raise TokenRefused("expired")
        if now_s < grant.issued_at_s - CLOCK_TOLERANCE_S:
            raise TokenRefused("not yet valid")
        if self._is_revoked(grant.token_id):
            raise TokenRefused("revoked")
        return grant

    def _check_signature(self, text: str) -> Grant:
        signed_part, _, signature = text.rpartition(".")
        header, _, payload = signed_part.partition(".")
        if header != self._header:
            raise TokenRefused(_header_fault(header, self._anchor.cluster_id))
        try:
            self._anchor.root_key.verify(_bytes(signature), signed_part.encode())
        except InvalidSignature:
            raise TokenRefused("signature") from None
        try:
            claims = msgspec.json.decode(_bytes(payload), type=_Claims)
            grant = msgspec.convert(_grant(claims), Grant)
        except DECODE_ERRORS:
            raise TokenRefused("malformed") from None
        if claims.aud != self._anchor.cluster_id:
            raise TokenRefused("audience")
        return grant


def _claims(grant: Grant, cluster: ClusterId) -> _Claims:
    return _Claims(
        aud=cluster,
        sub=grant.name,
        jti=grant.token_id,
        iat=grant.issued_at_s,
        exp=grant.expires_at_s,
        scopes=grant.scopes,
        models=grant.models,
        rpm=grant.requests_per_minute,
        tpm=grant.tokens_per_minute,
        max_parallel=grant.max_parallel,
        weight=grant.weight,
        priority=grant.priority,
    )


def _grant(claims: _Claims) -> dict[str, Any]:
    return {
        "token_id": claims.jti,
        "name": claims.sub,
        "scopes": claims.scopes,
        "issued_at_s": claims.iat,
        "expires_at_s": claims.exp,
        "models": claims.models,
        "requests_per_minute": claims.rpm,
        "tokens_per_minute": claims.tpm,
        "max_parallel": claims.max_parallel,
        "weight": claims.weight,
        "priority": claims.priority,
    }


def _header(cluster: ClusterId) -> str:
    """The one header of this cluster's tokens; the key's id is the cluster's, as both are the hash of the root key."""
    return _segment(json.dumps({"alg": "EdDSA", "kid": cluster, "typ": "JWT"}, separators=(",", ":")).encode())


class _Header(Struct):
    alg: str = ""
    kid: str = ""


def _header_fault(header: str, cluster: ClusterId) -> TokenFault:
    """Why a header is not ours: for the message alone, nothing is decided by it."""
    try:
        stated = msgspec.json.decode(_bytes(header), type=_Header)
    except (*DECODE_ERRORS, TokenRefused):
        return "malformed"
    if stated.alg == "EdDSA" and stated.kid != cluster:
        return "another cluster"
    return "algorithm"


def _segment(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(segment: str) -> bytes:
    """Decode one part of a token; only the one canonical spelling of its bytes is taken. Raises TokenRefused."""
    try:
        raw = base64.b64decode(segment.encode() + b"=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise TokenRefused("malformed") from None
    if _segment(raw) != segment:
        raise TokenRefused("malformed")
    return raw
