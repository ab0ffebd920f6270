"""How machines come into the cluster, stay in it and leave: the calls a member answers, and the other side of them.

Who is believed is decided in `node.identity`; here its requests and answers find their way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from node.errors import NodeError
from node.identity import (
    AlreadyMember,
    CertificateRefused,
    Forged,
    Identity,
    IdentityError,
    IdentityStore,
    Invitation,
    InvitationRefused,
    JoinAnswer,
    JoinRequest,
    Malformed,
    NodeKeys,
    NodeNames,
    Software,
    TrustAnchor,
    accept_join_answer,
    join_context,
    make_join_request,
    make_renewal_request,
    unchecked_context,
)
from node.peers.caller import call_at, read_bounded
from node.peers.endpoints import Call, Caller
from node.peers.errors import NobodyUp, PeerError, PeerUnreachable
from node.peers.link import unreachable
from node.peers.membership import MemberRecord

if TYPE_CHECKING:
    from node.identity import NodeId
    from node.peers.peers import Peers

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

JOIN_LIMIT_S = 10.0
CA_LIMIT_S = 5.0
MAX_CA_BYTES = 64 << 10


class Welcome(Struct, frozen=True, kw_only=True):
    """The answer to a machine that joins: its certificate, and whom it can reach."""

    answer: JoinAnswer
    members: tuple[MemberRecord, ...]


class Leave(Struct, frozen=True):
    """The caller leaves for good; its certificate is to count no more."""


class Left(Struct, frozen=True):
    """That is known now, and spreads."""


class Registrar:
    """What this member does for machines that come and go, and asks of others when it is one of those."""

    def __init__(self, identity: Identity, peers: Peers, software: Software) -> None:
        self._identity, self._peers, self._software = identity, peers, software

    def calls(self) -> dict[str, Call]:
        """What this answers to other machines, by the path's end."""
        return {
            "join": Call(JoinRequest, self._answer_join, open_to_strangers=True),
            "renew": Call(JoinRequest, self._answer_renewal),
            "leave": Call(Leave, self._answer_leave),
        }

    async def renew(self, names: NodeNames) -> None:
        """Get a new certificate, from this machine's own root key or from a keeper. Raises IdentityError, PeerError."""
        identity, now_s = self._identity, time.time()
        if identity.root is not None:
            identity.renew(names, now_s=now_s)
        else:
            pending = make_renewal_request(
                identity.anchor,
                identity.keys,
                names=names,
                node_name=identity.node_name,
                software=self._software,
                now_s=now_s,
            )
            answer = await self._ask_keepers("renew", pending.request, JoinAnswer)
            renewed = accept_join_answer(answer, pending, now_s=time.time())
            identity.take_certificate(renewed.certificate, now_s=time.time())
        self._peers.renew_contexts()
        log.info("certificate renewed valid_until=%s", identity.certificate.not_valid_after_utc.isoformat())

    async def leave(self) -> None:
        """Have a keeper revoke this node's certificate. Raises IdentityError, PeerError: nobody could be told."""
        if not len(self._peers.membership):
            return  # the cluster ends with its last member
        self._peers.part()
        await self._ask_keepers("leave", Leave(), Left)

    def remove(self, node: NodeId) -> None:
        """Make another node a stranger, whether it can be reached or not. Raises NotKeeper."""
        self._identity.remove_node(node, now_s=time.time())
        log.info("node removed node=%s", node)
        self._peers.ledger_changed()

    async def _ask_keepers(self, name: str, request: Struct, answer: type[Answer]) -> Answer:
        """Ask the members that are up, one after the other, until one does it. Raises the last one's error."""
        error: Exception = NobodyUp()
        for member in self._peers.membership:
            if member.state != "up":
                continue
            try:
                return await self._peers.call(member.node, name, request, answer)
            except (NodeError, IdentityError) as failure:
                error = failure
        raise error

    async def _answer_join(self, caller: Caller, request: JoinRequest) -> Welcome:
        try:
            joined = self._identity.answer_join(request, software=self._software, now_s=time.time())
        except IdentityError as refusal:
            # Anybody can send what proves no invitation, as often as they like: that is not worth a line.
            proven = not (isinstance(refusal, InvitationRefused) and refusal.reason in ("unknown", "forged"))
            level = logging.WARNING if proven else logging.DEBUG
            log.log(level, 'node not joined address=%s reason="%s"', caller.address, refusal)
            raise
        log.info("node joined node=%s name=%s address=%s", joined.node, joined.node_name, caller.address)
        self._peers.remember(MemberRecord(node=joined.node, name=joined.node_name))
        return Welcome(answer=joined.answer, members=(self._peers.record(), *self._peers.membership.records()))

    async def _answer_renewal(self, caller: Caller, request: JoinRequest) -> JoinAnswer:
        if caller.node is None:
            raise CertificateRefused("absent")
        return self._identity.answer_renewal(request, caller.node, now_s=time.time())

    async def _answer_leave(self, caller: Caller, request: Leave) -> Left:
        if caller.node is None:
            raise CertificateRefused("absent")
        self._identity.remove_node(caller.node, now_s=time.time())
        log.info("node left node=%s", caller.node)
        self._peers.ledger_changed()
        return Left()


async def join_cluster(
    invitation: Invitation, store: IdentityStore, *, node_name: str, names: NodeNames, software: Software
) -> tuple[Identity, tuple[MemberRecord, ...]]:
    """Join the cluster that invites, at the first of its addresses that answers, and keep the identity.

    Returns: this machine as a member, and the members to call first.
    Raises: IdentityError: why not; PeerError: nobody answers. Takes at most some seconds for each address.
    """
    if store.exists:
        raise AlreadyMember(store.open(now_s=time.time()).cluster_name)
    error: PeerError = PeerUnreachable(invitation.cluster_name, "the invitation names no address")
    async with aiohttp.ClientSession() as session:
        for address in invitation.addresses:
            try:
                anchor = await _fetch_anchor(session, address, invitation)
                return await _join_at(session, address, anchor, invitation, store, node_name, names, software)
            except PeerError as failure:
                error = failure
    raise error


async def _fetch_anchor(session: aiohttp.ClientSession, address: str, invitation: Invitation) -> TrustAnchor:
    """The cluster's certificate, which proves itself by the root key in the invitation."""
    try:
        async with (
            asyncio.timeout(CA_LIMIT_S),
            session.get(f"https://{address}/ca.pem", ssl=unchecked_context()) as response,
        ):
            pem = await read_bounded(response, MAX_CA_BYTES)
    except TimeoutError:
        raise unreachable(address, TimeoutError(f"no answer within {CA_LIMIT_S:g} s")) from None
    except (aiohttp.ClientError, OSError) as failure:
        raise unreachable(address, failure) from None
    try:
        return TrustAnchor.from_pem(pem, root_key=invitation.root_key)
    except (Malformed, Forged):
        # Not a reason to give up: an address may have passed to another machine since the invitation was made.
        raise PeerUnreachable(address, "another cluster, or something else, is there") from None


async def _join_at(
    session: aiohttp.ClientSession,
    address: str,
    anchor: TrustAnchor,
    invitation: Invitation,
    store: IdentityStore,
    node_name: str,
    names: NodeNames,
    software: Software,
) -> tuple[Identity, tuple[MemberRecord, ...]]:
    keys = NodeKeys.generate()
    pending = make_join_request(
        invitation, keys, names=names, node_name=node_name, software=software, now_s=time.time()
    )
    welcome = await call_at(
        session,
        join_context(anchor),
        address,
        "join",
        msgspec.msgpack.encode(pending.request),
        Welcome,
        shown=address,
        limit_s=JOIN_LIMIT_S,
    )
    membership = accept_join_answer(welcome.answer, pending, now_s=time.time())
    return store.save(membership, node_name=node_name, now_s=time.time()), welcome.members
