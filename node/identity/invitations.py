"""Invitations: one line that a person carries from a member to a new machine, and the book of those still open.

The line names the cluster's root key, so the new machine knows whom it may trust before it has spoken to anybody, and
holds a secret that the new machine proves to know without sending it. It is answered only by the member that made it:
a use is counted in one place, on disk before the answer leaves, so no race between members lets it count twice.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from node.decoding import DECODE_ERRORS
from node.identity.errors import Forged, InvitationRefused, Malformed, UnusableFile
from node.identity.files import read_private, write_private
from node.identity.ids import ClusterId, NodeId, cluster_id_of
from node.identity.keys import public_from_raw
from node.identity.root import ClusterRoot
from node.identity.signing import Signed, verify

PREFIX = "ayni-join-1."
MAX_LINE_CHARS = 4096
MAX_ADDRESSES = 16
MAX_LIFETIME_S = 7 * 86400.0
MAX_USES = 1000
MAX_OPEN = 1000
MAX_REQUESTS = 4 * MAX_USES
SECRET_BYTES = 16
# An invitation is remembered this long after its end, so that who comes late is told why.
REMEMBERED_S = 86400.0


class _Line(Struct, frozen=True, array_like=True):
    """What the line holds; an array, as it has to stay short."""

    id: Annotated[str, Meta(max_length=16)]
    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    root_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    cluster_name: Annotated[str, Meta(max_length=32)]
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=300)], ...], Meta(min_length=1, max_length=MAX_ADDRESSES)]
    expires_at_s: int
    uses: int

    def __repr__(self) -> str:
        return f"_Line({self.id})"


@dataclass(frozen=True, slots=True)
class Invitation:
    """A line that was read, or made. Its secret, and the line with it, is never shown by `repr`.

    Attributes:
        root_key: the raw Ed25519 key of the cluster that invites.
        addresses: "host:port" of the inviting member, in the order to be tried.
        expires_at_s: by the inviting member's clock, which alone decides.
    """

    id: str
    secret: bytes = field(repr=False)
    root_key: bytes
    cluster_name: str
    addresses: tuple[str, ...]
    expires_at_s: int
    uses: int
    text: str = field(repr=False)

    @property
    def cluster_id(self) -> ClusterId:
        """The cluster that invites."""
        return cluster_id_of(self.root_key)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a line, as mail and chat programs may have wrapped it.

        Raises: InvitationRefused: damaged, or altered. Whether it has expired is not for this machine's clock to say.
        """
        line = "".join(text.split())
        if len(line) > MAX_LINE_CHARS or not line.startswith(PREFIX):
            raise InvitationRefused("damaged")
        encoded = line.removeprefix(PREFIX)
        try:
            raw = base64.b64decode(encoded.encode() + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            signed = msgspec.msgpack.decode(raw, type=Signed)
            fields = msgspec.msgpack.decode(signed.payload, type=_Line)
            verify(public_from_raw(fields.root_key), "invitation", signed)
        except (binascii.Error, *DECODE_ERRORS, UnicodeError, Malformed):
            raise InvitationRefused("damaged") from None
        except Forged:
            raise InvitationRefused("forged") from None
        return cls(
            fields.id,
            fields.secret,
            fields.root_key,
            fields.cluster_name,
            fields.addresses,
            fields.expires_at_s,
            fields.uses,
            line,
        )

    def proof(self, request: bytes) -> bytes:
        """Shows that whoever made `request` holds this line."""
        return _proof(self.secret, request)


class OpenInvitation(Struct, frozen=True, kw_only=True):
    """What the inviting member remembers.

    Attributes:
        keeper: who joins by it gets the root key.
        removals: how many nodes were known to be removed when it was made. Whoever is removed later may know the line,
            so it counts only as long as that number stands. (Whether it does, no clock has to say.)
        joined: who did; asking again, after a lost answer, is not another use.
        requests: hashes of the requests that were answered; the same bytes are not answered twice.
    """

    id: str
    secret: bytes
    expires_at_s: int
    uses: int
    keeper: bool
    removals: int = 0
    joined: tuple[NodeId, ...] = ()
    requests: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"OpenInvitation({self.id}, {len(self.joined)} of {self.uses} used)"

    @property
    def uses_left(self) -> int:
        """How many more machines may join by it."""
        return self.uses - len(self.joined)

    def check(self, request: bytes, proof: bytes, *, now_s: float) -> None:
        """Whether this request was made by a holder of the line, in time, and not answered before.

        Raises: InvitationRefused.
        """
        if not hmac.compare_digest(proof, _proof(self.secret, request)):
            raise InvitationRefused("forged")
        if now_s >= self.expires_at_s:
            raise InvitationRefused("expired")
        if hashlib.sha256(request).digest() in self.requests or len(self.requests) >= MAX_REQUESTS:
            raise InvitationRefused("replayed")

    def used_by(self, node: NodeId, request: bytes) -> OpenInvitation:
        """The invitation after it was used. Raises InvitationRefused: it was used up by others."""
        joined = self.joined if node in self.joined else (*self.joined, node)
        if len(joined) > self.uses:
            raise InvitationRefused("used up")
        return replace(self, joined=joined, requests=(*self.requests, hashlib.sha256(request).digest()))


class InvitationBook:
    """The invitations of this member, on disk before any change is answered. Disk errors pass through as OSError."""

    def __init__(self, path: Path) -> None:
        """Raises: UnusableFile."""
        self._path = path
        self._open: dict[str, OpenInvitation] = {}
        if path.exists():
            try:
                stored = msgspec.msgpack.decode(read_private(path), type=list[OpenInvitation])
            except DECODE_ERRORS:
                raise UnusableFile(path, "the list of invitations is damaged; remove it") from None
            self._open = {invitation.id: invitation for invitation in stored}

    def invite(
        self,
        root: ClusterRoot,
        *,
        cluster_name: str,
        addresses: Collection[str],
        lifetime_s: float,
        now_s: float,
        uses: int = 1,
        keeper: bool = True,
        removals: int = 0,
    ) -> Invitation:
        """Make an invitation. `removals` as in `OpenInvitation`; `node.identity.Identity.invite` fills it in.

        Raises: ValueError: something in it is out of its bounds; the text says what.
        """
        if not 0 < lifetime_s <= MAX_LIFETIME_S:
            raise ValueError("an invitation can be good for at most 7 days")
        if not 1 <= uses <= MAX_USES:
            raise ValueError(f"an invitation can be good for 1 to {MAX_USES} machines")
        if not 1 <= len(addresses) <= MAX_ADDRESSES:
            raise ValueError(f"an invitation needs 1 to {MAX_ADDRESSES} addresses of this machine")
        if len(self.open(now_s=now_s)) >= MAX_OPEN:
            raise ValueError(f"{MAX_OPEN} invitations are open already")
        line = _Line(
            id=secrets.token_hex(8),
            secret=secrets.token_bytes(SECRET_BYTES),
            root_key=root.anchor.raw_root_key,
            cluster_name=cluster_name,
            addresses=tuple(addresses),
            expires_at_s=int(now_s + lifetime_s),
            uses=uses,
        )
        signed = root.sign("invitation", msgspec.msgpack.encode(line))
        text = PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(signed)).rstrip(b"=").decode()
        self.keep(
            OpenInvitation(
                id=line.id,
                secret=line.secret,
                expires_at_s=line.expires_at_s,
                uses=uses,
                keeper=keeper,
                removals=removals,
            ),
            now_s=now_s,
        )
        return Invitation.parse(text)

    def find(self, invitation_id: str) -> OpenInvitation:
        """Raises InvitationRefused: unknown here."""
        try:
            return self._open[invitation_id]
        except KeyError:
            raise InvitationRefused("unknown") from None

    def keep(self, invitation: OpenInvitation, *, now_s: float) -> None:
        """Remember an invitation, or what became of it."""
        self._write({**self._open, invitation.id: invitation}, now_s)

    def cancel(self, invitation_id: str, *, now_s: float) -> None:
        """Withdraw an invitation. Raises InvitationRefused: unknown here."""
        self.find(invitation_id)
        self._write({key: kept for key, kept in self._open.items() if key != invitation_id}, now_s)

    def open(self, *, now_s: float) -> list[OpenInvitation]:
        """Those that can still be used."""
        return [kept for kept in self._open.values() if now_s < kept.expires_at_s and kept.uses_left > 0]

    def _write(self, invitations: dict[str, OpenInvitation], now_s: float) -> None:
        kept = {key: each for key, each in invitations.items() if now_s < each.expires_at_s + REMEMBERED_S}
        write_private(self._path, msgspec.msgpack.encode(list(kept.values())))
        self._open = kept


def _proof(secret: bytes, request: bytes) -> bytes:
    return hmac.digest(secret, b"ayni join proof v1\0" + request, "sha256")
