"""How a machine becomes a member, and how a member gets a new certificate: pure exchanges of values.

1. The new machine reads the invitation, fetches `ca.pem` from one of its addresses, and accepts it only if the root
   that the invitation names vouches for it (`TrustAnchor.from_pem`). It dials again, now checking certificates
   against it (`tls.join_context`): nobody in between can read or answer what follows.
2. `make_join_request`: who it is, signed with both of its keys, with a proof that it holds the invitation.
3. `answer_join`, on the member that invited: every reason to refuse, in the order in which they help a person most;
   then a certificate, the ledger and, for a keeper, the root key. The caller keeps `after` on disk, then answers.
4. `accept_join_answer`: the answer must be signed by the root that the invitation named and be for this request.

A renewal is the same request without invitation; the mutual TLS connection it arrives on says who asks.
"""

from __future__ import annotations

import hashlib
import platform
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias, TypeVar, cast, get_args

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta, Struct

from node.decoding import DECODE_ERRORS
from node.identity.certificates import NodeNames, check_certificate, issue_certificate
from node.identity.errors import (
    CertificateFault,
    CertificateRefused,
    ClockSkewed,
    Forged,
    IdentityError,
    InvitationFault,
    InvitationRefused,
    Malformed,
    VersionMismatch,
)
from node.identity.ids import NodeId, node_id_of
from node.identity.invitations import Invitation, OpenInvitation
from node.identity.keys import UNREADABLE, NodeKeys, public_from_raw, raw_public, tls_public_bytes, tls_public_from
from node.identity.root import ClusterRoot, TrustAnchor
from node.identity.signing import Signed, sign, verify

PROTOCOL = 1
MAX_CLOCK_SKEW_S = 120.0
MAX_REQUEST_BYTES = 64 << 10
MAX_ANSWER_BYTES = 64 << 20

Text: TypeAlias = Annotated[str, Meta(max_length=128)]
Name: TypeAlias = Annotated[str, Meta(max_length=255)]
T = TypeVar("T")


class Software(Struct, frozen=True, kw_only=True):
    """What has to match between members. `ray` "": not installed there, so it need not match."""

    ayni: Text
    python: Text = platform.python_version()
    ray: Text = ""
    protocol: int = PROTOCOL


class _Ask(Struct, frozen=True, kw_only=True):
    """What both kinds of request say. `tls_key`: DER; `nonce` makes each request another one."""

    identity_key: Annotated[bytes, Meta(max_length=32)]
    tls_key: Annotated[bytes, Meta(max_length=256)]
    node_name: Text
    addresses: Annotated[tuple[Name, ...], Meta(max_length=32)]
    host_names: Annotated[tuple[Name, ...], Meta(max_length=16)]
    software: Software
    asked_at_s: float
    nonce: Annotated[bytes, Meta(max_length=16)]


class JoinRequest(Struct, frozen=True, kw_only=True):
    """Asks for a certificate, with an invitation or, for a renewal, without ("").

    Attributes:
        ask: signed with the identity key; its payload is an `_Ask`.
        tls_signature: over the same payload, with the TLS key: both keys are really the asker's.
        proof: shows the invitation's secret without telling it.
    """

    invitation: Annotated[str, Meta(max_length=16)]
    ask: Signed
    tls_signature: Annotated[bytes, Meta(max_length=128)]
    proof: Annotated[bytes, Meta(max_length=32)] = b""


class _Answer(Struct, frozen=True, kw_only=True):
    request: bytes
    cluster_name: str
    certificate: bytes
    ca_pem: bytes
    answered_at_s: float
    answered_by: str
    root: bytes = b""
    ledger: tuple[Signed, ...] = ()

    def __repr__(self) -> str:
        return "_Answer()"


class JoinAnswer(Struct, frozen=True, kw_only=True):
    """A certificate and what comes with it, signed by the root. May hold the root key: only for the asker's channel."""

    body: Signed


class JoinRefusal(Struct, frozen=True, kw_only=True):
    """Why not; the asking machine raises the same error (`refusal_error`)."""

    error: Text
    fields: Annotated[tuple[str | float, ...], Meta(max_length=8)] = ()


@dataclass(frozen=True, slots=True)
class PendingJoin:
    """A request that was made and what its answer has to fit."""

    request: JoinRequest
    keys: NodeKeys = field(repr=False)
    root_key: bytes
    asked_at_s: float


@dataclass(frozen=True, slots=True)
class Joined:
    """A machine that may join: what to keep (`after`) before telling it (`answer`)."""

    answer: JoinAnswer = field(repr=False)
    after: OpenInvitation
    node: NodeId
    node_name: str
    keeper: bool


@dataclass(frozen=True, slots=True)
class Membership:
    """What a machine got: everything to be a member, not yet on disk. `root`: None for a member that is no keeper."""

    anchor: TrustAnchor
    root: ClusterRoot | None
    keys: NodeKeys = field(repr=False)
    certificate: x509.Certificate
    cluster_name: str
    ledger: tuple[Signed, ...] = field(default=(), repr=False)


def make_join_request(
    invitation: Invitation,
    keys: NodeKeys,
    *,
    names: NodeNames,
    node_name: str,
    software: Software,
    now_s: float,
) -> PendingJoin:
    """Ask to become a member."""
    ask, tls_signature = _ask(keys, names, node_name, software, now_s)
    request = JoinRequest(
        invitation=invitation.id, ask=ask, tls_signature=tls_signature, proof=invitation.proof(ask.payload)
    )
    return PendingJoin(request, keys, invitation.root_key, now_s)


def make_renewal_request(
    anchor: TrustAnchor, keys: NodeKeys, *, names: NodeNames, node_name: str, software: Software, now_s: float
) -> PendingJoin:
    """Ask a keeper for a new certificate, over mutual TLS."""
    ask, tls_signature = _ask(keys, names, node_name, software, now_s)
    request = JoinRequest(invitation="", ask=ask, tls_signature=tls_signature)
    return PendingJoin(request, keys, anchor.raw_root_key, now_s)


def answer_join(
    request: JoinRequest,
    invitation: OpenInvitation,
    *,
    root: ClusterRoot,
    is_revoked: Callable[[NodeId], bool],
    cluster_name: str,
    software: Software,
    answered_by: NodeId,
    ledger: Iterable[Signed],
    now_s: float,
) -> Joined:
    """Decide about a machine that wants to join.

    1. The invitation: genuine, in time, this request not answered before. 2. The clocks. 3. The versions. 4. Both keys
    are the asker's, and its node was not removed. 5. A use is left.
    Raises: InvitationRefused, ClockSkewed, VersionMismatch, Malformed, Forged, CertificateRefused.
    """
    payload = request.ask.payload
    if request.invitation != invitation.id:
        raise InvitationRefused("unknown")
    invitation.check(payload, request.proof, now_s=now_s)
    ask = _decode_ask(payload)
    check_clock(ask.asked_at_s, now_s)
    check_software(ask.software, software)
    node = _check_keys(request, ask)
    if is_revoked(node):
        raise CertificateRefused("revoked")
    after = invitation.used_by(node, payload)
    keeper = invitation.keeper
    answer = _answer(root, request, ask, node, cluster_name, answered_by, now_s, keeper=keeper, ledger=ledger)
    return Joined(answer, after, node, ask.node_name, keeper)


def answer_renewal(
    request: JoinRequest,
    peer: NodeId,
    *,
    root: ClusterRoot,
    is_revoked: Callable[[NodeId], bool],
    cluster_name: str,
    answered_by: NodeId,
    now_s: float,
) -> JoinAnswer:
    """Certify a member anew. `peer`: who the TLS connection says is asking.

    Raises: CertificateRefused: it asks for another node, or was removed; ClockSkewed, Malformed, Forged.
    """
    ask = _decode_ask(request.ask.payload)
    check_clock(ask.asked_at_s, now_s)
    node = _check_keys(request, ask)
    if node != peer:
        raise CertificateRefused("another node")
    if is_revoked(node):
        raise CertificateRefused("revoked")
    return _answer(root, request, ask, node, cluster_name, answered_by, now_s, keeper=False, ledger=())


def accept_join_answer(answer: JoinAnswer, pending: PendingJoin, *, now_s: float) -> Membership:
    """Check an answer to what was asked.

    Raises: Forged: another root signed it; Malformed: it answers something else; ClockSkewed; CertificateRefused.
    """
    verify(public_from_raw(pending.root_key), "join answer", answer.body)
    body = _decode(answer.body.payload, _Answer, "answer")
    if body.request != _digest(pending.request):
        raise Malformed("answer")
    check_clock(body.answered_at_s, now_s, waited_s=max(0.0, now_s - pending.asked_at_s))
    anchor = TrustAnchor.from_pem(body.ca_pem, root_key=pending.root_key)
    root = None
    if body.root:
        root = ClusterRoot.from_bytes(body.root)
        if root.anchor.raw_root_key != pending.root_key:
            raise Forged("root key")
    try:
        certificate = x509.load_der_x509_certificate(body.certificate)
    except UNREADABLE:
        raise Malformed("certificate") from None
    keys = pending.keys
    check_certificate(certificate, anchor, now_s=now_s, node=keys.node_id, tls_key=keys.tls.public_key())
    return Membership(anchor, root, keys, certificate, body.cluster_name, body.ledger)


def check_clock(theirs_s: float, ours_s: float, *, waited_s: float = 0.0) -> None:
    """Compare the time that another machine wrote, up to `waited_s` ago, with ours. Raises ClockSkewed."""
    ahead_s = theirs_s - ours_s
    # Written so that NaN, too, is refused.
    if not -(MAX_CLOCK_SKEW_S + waited_s) <= ahead_s <= MAX_CLOCK_SKEW_S:
        raise ClockSkewed(ahead_s)


def check_software(theirs: Software, ours: Software) -> None:
    """Raises VersionMismatch: Ray wants its own version and Python's minor version equal on all nodes."""
    if theirs.protocol != ours.protocol:
        raise VersionMismatch("Ayni", theirs.ayni, ours.ayni)
    if _minor(theirs.python) != _minor(ours.python):
        raise VersionMismatch("Python", _minor(theirs.python), _minor(ours.python))
    if theirs.ray and ours.ray and theirs.ray != ours.ray:
        raise VersionMismatch("Ray", theirs.ray, ours.ray)


def refusal(error: IdentityError) -> JoinRefusal:
    """An error as it travels to the machine that asked."""
    fields = tuple(each if isinstance(each, float | int) else str(each) for each in error.args)
    return JoinRefusal(error=type(error).__name__, fields=fields)


def refusal_error(refused: JoinRefusal) -> IdentityError:
    """The error that a refusal stands for, seen from the machine that asked."""
    match refused.error, refused.fields:
        case "ClockSkewed", (float() | int() as ahead_s,):
            return ClockSkewed(-float(ahead_s))
        case "VersionMismatch", (str() as what, str() as theirs, str() as ours):
            return VersionMismatch(what, theirs, ours)
        case "InvitationRefused", (reason,) if reason in get_args(InvitationFault):
            return InvitationRefused(cast(InvitationFault, reason))
        case "CertificateRefused", (reason,) if reason in get_args(CertificateFault):
            return CertificateRefused(cast(CertificateFault, reason))
    return Malformed("request to join")


def decode_join_request(content: bytes) -> JoinRequest:
    """Raises Malformed."""
    if len(content) > MAX_REQUEST_BYTES:
        raise Malformed("request to join")
    return _decode(content, JoinRequest, "request to join")


def decode_join_answer(content: bytes) -> JoinAnswer:
    """Raises Malformed."""
    return _decode(content, JoinAnswer, "answer")


def _ask(keys: NodeKeys, names: NodeNames, node_name: str, software: Software, now_s: float) -> tuple[Signed, bytes]:
    payload = msgspec.msgpack.encode(
        _Ask(
            identity_key=raw_public(keys.identity.public_key()),
            tls_key=tls_public_bytes(keys.tls.public_key()),
            node_name=node_name[:128],
            addresses=names.addresses,
            host_names=names.host_names,
            software=software,
            asked_at_s=now_s,
            nonce=secrets.token_bytes(16),
        )
    )
    return sign(keys.identity, "join request", payload), keys.tls.sign(payload, ec.ECDSA(hashes.SHA256()))


def _check_keys(request: JoinRequest, ask: _Ask) -> NodeId:
    """The node that asks, if it holds the secret halves of both its keys. Raises Malformed, Forged."""
    verify(public_from_raw(ask.identity_key), "join request", request.ask)
    try:
        tls_public_from(ask.tls_key).verify(request.tls_signature, request.ask.payload, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Forged("join request") from None
    return node_id_of(ask.identity_key)


def _answer(
    root: ClusterRoot,
    request: JoinRequest,
    ask: _Ask,
    node: NodeId,
    cluster_name: str,
    answered_by: NodeId,
    now_s: float,
    *,
    keeper: bool,
    ledger: Iterable[Signed],
) -> JoinAnswer:
    certificate = issue_certificate(
        root,
        node=node,
        tls_key=tls_public_from(ask.tls_key),
        names=NodeNames.of(ask.addresses, ask.host_names),
        cluster_name=cluster_name,
        now_s=now_s,
    )
    body = _Answer(
        request=_digest(request),
        cluster_name=cluster_name,
        certificate=certificate.public_bytes(serialization.Encoding.DER),
        ca_pem=root.anchor.ca_pem,
        answered_at_s=now_s,
        answered_by=answered_by,
        root=root.to_bytes() if keeper else b"",
        ledger=tuple(ledger),
    )
    return JoinAnswer(body=root.sign("join answer", msgspec.msgpack.encode(body)))


def _digest(request: JoinRequest) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(request)).digest()


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _decode_ask(payload: bytes) -> _Ask:
    ask = _decode(payload, _Ask, "request to join")
    if not ask.node_name.isprintable():  # it will stand in logs and lists
        raise Malformed("name in a request to join")
    return ask


def _decode(content: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except DECODE_ERRORS:
        raise Malformed(what) from None
