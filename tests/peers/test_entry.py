"""Machines that join, renew, leave and are removed, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Literal

import pytest
from msgspec.structs import replace

from node.identity import (
    AlreadyMember,
    CertificateRefused,
    IdentityStore,
    Invitation,
    InvitationRefused,
    NodeId,
    NodeNames,
    Signed,
    VersionMismatch,
    unchecked_context,
)
from node.peers import Call, Caller, PeerUnreachable, join_cluster
from registry import ModelStore
from tests.api.scripted_node import ScriptedNode
from tests.peers.lan_nodes import ADDRESSES, SOFTWARE, LanNode, identities, lan_nodes, until

NAMES = NodeNames.of((ADDRESSES[2],))


def invite(node: LanNode, *, addresses: tuple[str, ...] = (), uses: int = 1, keeper: bool = True) -> Invitation:
    made = node.identity.invite((*addresses, node.address), lifetime_s=60, now_s=time.time(), uses=uses, keeper=keeper)
    return Invitation.parse(made.text)


def not_joined(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The reasons for refusals that the inviting member's operator can read."""
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [line.partition('reason="')[2].rstrip('"') for line in lines if line.startswith("node not joined address=")]


async def test_an_invited_machine_joins_and_everybody_meets_it(tmp_path: Path, store: ModelStore) -> None:
    async with lan_nodes(tmp_path, [ScriptedNode(), ScriptedNode()], [store] * 2) as (first, second):
        identity, members = await join_cluster(
            invite(first), IdentityStore(tmp_path / "new"), node_name="n9", names=NAMES, software=SOFTWARE
        )
        assert {member.node for member in members} >= {first.id, second.id}
        third = LanNode(identity, ScriptedNode(), store, tmp_path / "book9", ADDRESSES[2])
        await third.start(members)
        try:
            await until(lambda: all(node.membership.is_up(third.id) for node in (first, second)))
            await until(lambda: third.membership.is_up(first.id) and third.membership.is_up(second.id))
            report = first.membership.get(third.id)
            assert report is not None
            assert report.name == "n9"
        finally:
            await third.close()


async def test_requests_to_join_that_are_never_finished_keep_nobody_out(tmp_path: Path, store: ModelStore) -> None:
    async with lan_nodes(tmp_path, [ScriptedNode()], [store]) as (first,), AsyncExitStack() as stack:
        host, _, port = first.address.rpartition(":")
        strangers = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=unchecked_context())
            strangers.append((reader, writer))
            stack.callback(writer.transport.abort)
            writer.write(b"POST /node/join HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
            assert b" 100 " in await reader.readline()  # its body is waited for
        identity, _ = await join_cluster(
            invite(first), IdentityStore(tmp_path / "a"), node_name="a", names=NAMES, software=SOFTWARE
        )
        assert identity.cluster_id == first.identity.cluster_id


async def test_an_invitation_is_good_once(tmp_path: Path, store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    async with lan_nodes(tmp_path, [ScriptedNode()], [store]) as (first,):
        invitation = invite(first)
        await join_cluster(invitation, IdentityStore(tmp_path / "a"), node_name="a", names=NAMES, software=SOFTWARE)
        with pytest.raises(InvitationRefused, match="used already"):
            await join_cluster(invitation, IdentityStore(tmp_path / "b"), node_name="b", names=NAMES, software=SOFTWARE)
        assert not_joined(caplog) == [
            "the invitation has been used already; ask for a new one with `ayni cluster invite`"
        ]
        first.identity.invitations.cancel(invitation.id, now_s=time.time())
        with pytest.raises(InvitationRefused, match="not known here"):
            await join_cluster(invitation, IdentityStore(tmp_path / "b"), node_name="b", names=NAMES, software=SOFTWARE)
        assert len(not_joined(caplog)) == 1, "strangers could fill the log"
        with pytest.raises(AlreadyMember):
            await join_cluster(invitation, IdentityStore(tmp_path / "a"), node_name="a", names=NAMES, software=SOFTWARE)


async def test_both_sides_are_told_of_another_python(
    tmp_path: Path, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with lan_nodes(tmp_path, [ScriptedNode()], [store]) as (first,):
        other = replace(SOFTWARE, python="3.12.1")
        with pytest.raises(VersionMismatch, match=r"3\.12 can't join a cluster with Python 3\.11"):
            await join_cluster(invite(first), IdentityStore(tmp_path / "a"), node_name="a", names=NAMES, software=other)
        assert not_joined(caplog) == ["Python 3.12 can't join a cluster with Python 3.11; install the same version"]


async def test_addresses_that_do_not_answer_are_passed_over_and_nothing_hangs(
    tmp_path: Path, store: ModelStore
) -> None:
    async with lan_nodes(tmp_path, [ScriptedNode()], [store]) as (first,):
        invitation = invite(first, addresses=("127.0.0.19:9",))
        identity, _ = await join_cluster(
            invitation, IdentityStore(tmp_path / "a"), node_name="a", names=NAMES, software=SOFTWARE
        )
        assert identity.cluster_id == first.identity.cluster_id
        again = invite(first)
    with pytest.raises(PeerUnreachable):
        await join_cluster(again, IdentityStore(tmp_path / "b"), node_name="b", names=NAMES, software=SOFTWARE)


async def test_another_cluster_at_the_address_is_not_asked_to_let_us_in(tmp_path: Path, store: ModelStore) -> None:
    async with (
        lan_nodes(tmp_path / "one", [ScriptedNode()], [store]) as (first,),
        lan_nodes(tmp_path / "two", [ScriptedNode()], [store]) as (stranger,),
    ):
        first.address = stranger.address
        with pytest.raises(PeerUnreachable, match="another cluster"):
            await join_cluster(
                invite(first), IdentityStore(tmp_path / "a"), node_name="a", names=NAMES, software=SOFTWARE
            )


async def test_a_member_without_the_root_key_renews_through_one_that_has_it(tmp_path: Path, store: ModelStore) -> None:
    async with lan_nodes(tmp_path, [ScriptedNode()], [store]) as (first,):
        identity, members = await join_cluster(
            invite(first, keeper=False), IdentityStore(tmp_path / "a"), node_name="a", names=NAMES, software=SOFTWARE
        )
        assert identity.root is None
        second = LanNode(identity, ScriptedNode(), store, tmp_path / "book9", ADDRESSES[2])
        await second.start(members)
        try:
            await until(lambda: second.membership.is_up(first.id))
            before = identity.certificate
            await second.registrar.renew(NodeNames.of((ADDRESSES[2], "198.18.77.3")))
            assert identity.certificate.serial_number != before.serial_number
            second.peers.beat_now()
            await until(lambda: second.membership.is_up(first.id))
        finally:
            await second.close()


async def test_a_node_that_leaves_is_a_stranger_to_all_others(tmp_path: Path, store: ModelStore) -> None:
    async with lan_nodes(tmp_path, [ScriptedNode()] * 3, [store] * 3) as (first, second, third):
        with suppress(PeerUnreachable):  # the answer may come after the door is closed
            await third.registrar.leave()
        await until(lambda: all(node.membership.get(third.id) is None for node in (first, second)), 2.0)
        assert all(node.identity.ledger.is_node_revoked(third.id) for node in (first, second))


async def test_a_removed_node_learns_that_it_was(tmp_path: Path, store: ModelStore) -> None:
    async with lan_nodes(tmp_path, [ScriptedNode()] * 2, [store] * 2) as (first, second):
        first.registrar.remove(second.id)
        await until(lambda: first.membership.get(second.id) is None)
        assert first.identity.ledger.is_node_revoked(second.id)
        await until(lambda: second.identity.removed, 2.0)
        assert not second.membership.is_up(first.id)


@pytest.mark.parametrize("proof", ["forged", "none"])
async def test_a_node_is_not_removed_because_one_member_says_so(
    tmp_path: Path, store: ModelStore, proof: Literal["forged", "none"]
) -> None:
    async with lan_nodes(tmp_path, [ScriptedNode()] * 3, [store] * 3) as (liar, other, honest):
        [stranger] = identities(tmp_path / "elsewhere", 1)
        forged = stranger.remove_node(honest.id, now_s=time.time())
        asked: list[NodeId | None] = []

        def forge(node: NodeId) -> Signed:
            asked.append(node)
            return forged

        async def claim(caller: Caller, _: object) -> None:
            asked.append(caller.node)
            raise CertificateRefused("revoked")

        if proof == "forged":
            liar.removal_of = forge
        else:
            liar.endpoints.calls["beat"] = Call(dict, claim)
        await until(lambda: asked.count(honest.id) >= 3)  # so that it has seen two of the answers
        assert not honest.identity.removed
        assert honest.membership.is_up(other.id)
