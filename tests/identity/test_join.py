from __future__ import annotations

from dataclasses import replace as replace_field
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from node.identity import (
    CertificateRefused,
    ClockSkewed,
    ClusterRoot,
    Forged,
    Identity,
    IdentityError,
    IdentityStore,
    Invitation,
    InvitationRefused,
    JoinAnswer,
    JoinRefusal,
    JoinRequest,
    Malformed,
    NodeId,
    NodeKeys,
    NodeNames,
    NotKeeper,
    Software,
    VersionMismatch,
    accept_join_answer,
    check_clock,
    decode_join_answer,
    decode_join_request,
    issue_token,
    make_renewal_request,
    refusal,
    refusal_error,
)
from node.identity.join import MAX_REQUEST_BYTES, PROTOCOL

NOW_S = 1_800_000_000.0
SOFTWARE = Software(ayni="0.1.0", python="3.11.7", ray="2.60.0")


def over_the_wire(request: JoinRequest) -> JoinRequest:
    return decode_join_request(msgspec.msgpack.encode(request))


def answer(member: Identity, request: JoinRequest, *, now_s: float = NOW_S) -> JoinAnswer:
    joined = member.answer_join(over_the_wire(request), software=SOFTWARE, now_s=now_s)
    return decode_join_answer(msgspec.msgpack.encode(joined.answer))


def refused(member: Identity, request: JoinRequest, *, now_s: float = NOW_S) -> IdentityError:
    """The error, as the machine that asked sees it."""
    with pytest.raises(IdentityError) as error:
        member.answer_join(over_the_wire(request), software=SOFTWARE, now_s=now_s)
    return refusal_error(msgspec.msgpack.decode(msgspec.msgpack.encode(refusal(error.value)), type=JoinRefusal))


def test_a_joined_machine_is_a_member_that_knows_what_the_cluster_knows(world: Any, first: Identity) -> None:
    token = issue_token(first.need_root(), "old", scopes=["infer"], lifetime_s=60, now_s=NOW_S)
    first.ledger.revoke_token(first.need_root(), token.grant.token_id, now_s=NOW_S)
    second = world.join(first)
    assert second.cluster_id == first.cluster_id
    assert second.cluster_name == "home"
    assert second.node_id != first.node_id
    assert second.ledger.is_token_revoked(token.grant.token_id)
    assert second.ledger.fingerprint(now_s=NOW_S) == first.ledger.fingerprint(now_s=NOW_S)


def test_a_keeper_can_invite_the_next_machine(world: Any, first: Identity) -> None:
    third = world.join(world.join(first), node_name="third")
    assert third.cluster_id == first.cluster_id


def test_a_member_that_is_no_keeper_gets_no_root_and_can_not_sign(world: Any, first: Identity) -> None:
    member = world.join(first, keeper=False)
    assert member.root is None
    for sign in (
        member.need_root,
        lambda: world.invite(member),
        lambda: member.remove_node(first.node_id, now_s=NOW_S),
        lambda: member.renew(NodeNames(), now_s=NOW_S),
    ):
        with pytest.raises(NotKeeper):
            sign()


def test_a_used_invitation_is_refused_to_the_next_machine(world: Any, first: Identity) -> None:
    invitation = world.invite(first)
    answer(first, world.ask(invitation).request)
    assert str(refused(first, world.ask(invitation).request)).startswith("the invitation has been used already")


def test_a_replayed_request_is_refused_before_and_after_a_restart(world: Any, first: Identity) -> None:
    invitation = world.invite(first, uses=9)
    request = world.ask(invitation).request
    answer(first, request)
    assert refused(first, request).args == ("replayed",)
    reopened = IdentityStore(world.folder / "home" / "first").open(now_s=NOW_S)
    assert refused(reopened, request).args == ("replayed",)


def test_a_machine_whose_answer_was_lost_may_ask_again(world: Any, first: Identity) -> None:
    invitation, keys = world.invite(first), NodeKeys.generate()
    answer(first, world.ask(invitation, keys=keys).request)
    pending = world.ask(invitation, keys=keys)
    assert accept_join_answer(answer(first, pending.request), pending, now_s=NOW_S).keys.node_id == keys.node_id


def test_an_expired_invitation_is_refused(world: Any, first: Identity) -> None:
    pending = world.ask(world.invite(first, lifetime_s=60), now_s=NOW_S + 60)
    assert refused(first, pending.request, now_s=NOW_S + 60).args == ("expired",)


def test_a_cancelled_invitation_and_one_of_another_member_are_unknown(
    world: Any, first: Identity, second: Identity
) -> None:
    invitation = world.invite(first)
    assert refused(second, world.ask(invitation).request).args == ("unknown",)
    first.invitations.cancel(invitation.id, now_s=NOW_S)
    assert refused(first, world.ask(invitation).request).args == ("unknown",)


def test_an_invitation_of_another_cluster_is_refused(world: Any, first: Identity) -> None:
    stranger = world.create("elsewhere")
    assert refused(first, world.ask(world.invite(stranger)).request).args == ("unknown",)


def test_knowing_the_id_of_an_invitation_is_not_enough(world: Any, first: Identity) -> None:
    invitation: Invitation = world.invite(first)
    guessed = replace_field(invitation, secret=bytes(16))
    assert refused(first, world.ask(guessed).request).args == ("forged",)
    stolen = replace(world.ask(invitation).request, proof=b"")
    assert refused(first, stolen).args == ("forged",)


def test_a_captured_request_can_not_be_turned_to_another_key(world: Any, first: Identity) -> None:
    invitation = world.invite(first)
    captured, mine = world.ask(invitation).request, world.ask(world.invite(world.create("mine"))).request
    # The proof belongs to the captured bytes ...
    assert refused(first, replace(captured, ask=mine.ask, tls_signature=mine.tls_signature)).args == ("forged",)
    # ... and whoever holds the invitation still can't ask for keys that are not theirs.
    for changed in (
        replace(captured, tls_signature=mine.tls_signature),
        replace(captured, ask=replace(captured.ask, signature=mine.ask.signature)),
    ):
        with pytest.raises(Forged):
            first.answer_join(changed, software=SOFTWARE, now_s=NOW_S)
    assert first.invitations.find(invitation.id).uses_left == 1


@pytest.mark.parametrize(
    ("ahead_s", "text"),
    [
        (600.0, "the other machine's clock is 10 minutes behind this one's"),
        (-7200.0, "the other machine's clock is 2 hours ahead of this one's"),
        (-40 * 86400.0, "the other machine's clock is 40 days ahead of this one's"),
    ],
)
def test_a_wrong_clock_is_named_with_its_error_and_costs_no_use(
    world: Any, first: Identity, ahead_s: float, text: str
) -> None:
    invitation = world.invite(first)
    error = refused(first, world.ask(invitation, now_s=NOW_S + ahead_s).request)
    assert isinstance(error, ClockSkewed)
    assert str(error).startswith(text)
    assert first.invitations.find(invitation.id).uses_left == 1


def test_clocks_that_differ_by_a_minute_do_not_matter(world: Any, first: Identity) -> None:
    pending = world.ask(world.invite(first), now_s=NOW_S + 60)
    assert accept_join_answer(answer(first, pending.request), pending, now_s=NOW_S + 61).cluster_name == "home"


@pytest.mark.parametrize("theirs_s", [float("nan"), float("inf"), -float("inf"), NOW_S + 121, NOW_S - 121])
def test_no_strange_time_passes_for_ours(theirs_s: float) -> None:
    with pytest.raises(ClockSkewed):
        check_clock(theirs_s, NOW_S)


@pytest.mark.parametrize(
    ("theirs", "text"),
    [
        (replace(SOFTWARE, python="3.12.1"), "Python 3.12 can't join a cluster with Python 3.11"),
        (replace(SOFTWARE, ray="2.59.1"), "Ray 2.59.1 can't join a cluster with Ray 2.60.0"),
        (replace(SOFTWARE, ayni="9.0", protocol=PROTOCOL + 1), "Ayni 9.0 can't join a cluster with Ayni 0.1.0"),
    ],
)
def test_another_version_is_named_and_costs_no_use(world: Any, first: Identity, theirs: Software, text: str) -> None:
    invitation = world.invite(first)
    error = refused(first, world.ask(invitation, software=theirs).request)
    assert isinstance(error, VersionMismatch)
    assert str(error).startswith(text)
    assert first.invitations.find(invitation.id).uses_left == 1


@pytest.mark.parametrize(
    "theirs", [replace(SOFTWARE, python="3.11.2"), replace(SOFTWARE, ray=""), replace(SOFTWARE, ayni="0.2")]
)
def test_versions_that_do_not_matter_do_not_matter(world: Any, first: Identity, theirs: Software) -> None:
    assert answer(first, world.ask(world.invite(first), software=theirs).request)


def test_a_removed_machine_does_not_come_back_with_its_old_key(world: Any, first: Identity) -> None:
    second = world.join(first)
    first.remove_node(second.node_id, now_s=NOW_S)
    later_s = NOW_S + 1
    pending = world.ask(world.invite(first, now_s=later_s), keys=second.keys, now_s=later_s)
    assert refused(first, pending.request, now_s=later_s).args == ("revoked",)


@pytest.mark.parametrize("skew_s", [0.0, 1.0, -110.0, 5 * 365 * 86400.0])
def test_a_removal_withdraws_the_invitations_of_every_member_whatever_its_clock_says(
    world: Any, first: Identity, skew_s: float
) -> None:
    second, third = world.join(first), world.join(first, node_name="third")
    known = world.invite(second, uses=5)
    first.remove_node(third.node_id, now_s=NOW_S + skew_s)
    assert second.answer_join(world.ask(known).request, software=SOFTWARE, now_s=NOW_S)
    second.ledger.merge(first.ledger.records(), now_s=NOW_S)
    reopened = IdentityStore(world.folder / "home" / "second").open(now_s=NOW_S)
    for member in (second, reopened):
        assert refused(member, world.ask(known).request).args == ("unknown",)
    assert answer(second, world.ask(world.invite(second)).request)


# A field that nobody knows and that has no end.
NESTED = b"\x81\xa1x" + b"\x91" * 2500 + b"\x90"


@pytest.mark.parametrize(
    "content",
    [b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"\xdf\xff\xff\xff\xff", NESTED, bytes(MAX_REQUEST_BYTES + 1)],
)
def test_bytes_that_are_no_request_are_refused(content: bytes) -> None:
    with pytest.raises(Malformed):
        decode_join_request(content)


def test_a_request_whose_signed_part_is_nested_without_end_is_refused(world: Any, first: Identity) -> None:
    invitation = world.invite(first)
    request = world.ask(invitation).request
    forged = replace(request, ask=replace(request.ask, payload=NESTED), proof=invitation.proof(NESTED))
    with pytest.raises(Malformed):
        first.answer_join(forged, software=SOFTWARE, now_s=NOW_S)


def test_keys_of_the_wrong_kind_are_refused(world: Any, first: Identity) -> None:
    invitation = world.invite(first)
    request = world.ask(invitation).request
    ask = msgspec.msgpack.decode(request.ask.payload)
    for changed in (
        {"tls_key": b"x"},
        {"identity_key": b"x"},
        {"identity_key": b""},
        {"asked_at_s": "now"},
        {"node_name": "x" * 999},
    ):
        payload = msgspec.msgpack.encode(ask | changed)
        forged = replace(request, ask=replace(request.ask, payload=payload), proof=invitation.proof(payload))
        with pytest.raises((Malformed, Forged)):
            first.answer_join(forged, software=SOFTWARE, now_s=NOW_S)


@pytest.mark.parametrize("name", ["x\n2026-01-01T00:00:00.000 INFO api.serve stopped", "\x1b[2Jx", "a\u202eb"])
def test_a_name_that_is_no_line_of_text_is_refused(world: Any, first: Identity, name: str) -> None:
    pending = world.ask(world.invite(first), node_name=name)
    assert isinstance(refused(first, pending.request), Malformed)


def test_an_answer_of_another_root_is_refused(world: Any, first: Identity) -> None:
    """Somebody in between, with a cluster of their own, can't take the new machine in."""
    pending = world.ask(world.invite(first))
    mallory = world.create("mallory")
    own_invitation = world.invite(mallory)
    theirs = world.ask(own_invitation, keys=pending.keys)
    with pytest.raises(Forged):
        accept_join_answer(answer(mallory, theirs.request), pending, now_s=NOW_S)


def test_an_answer_to_another_request_is_refused(world: Any, first: Identity) -> None:
    invitation, keys = world.invite(first, uses=2), NodeKeys.generate()
    earlier = world.ask(invitation, keys=keys)
    with pytest.raises(Malformed):
        accept_join_answer(answer(first, earlier.request), world.ask(invitation, keys=keys), now_s=NOW_S)


def test_an_altered_answer_is_refused(world: Any, first: Identity) -> None:
    pending = world.ask(world.invite(first))
    body = answer(first, pending.request).body
    for altered in (
        replace(body, payload=body.payload.replace(b"home", b"hole")),
        replace(body, signature=bytes(64)),
        replace(body, signature=b""),
    ):
        with pytest.raises(Forged):
            accept_join_answer(JoinAnswer(body=altered), pending, now_s=NOW_S)


def test_a_slow_answer_is_no_wrong_clock_but_a_late_one_is(world: Any, first: Identity) -> None:
    pending = world.ask(world.invite(first))
    given = answer(first, pending.request)
    assert accept_join_answer(given, pending, now_s=NOW_S + 300).cluster_name == "home"
    with pytest.raises(ClockSkewed):
        accept_join_answer(given, pending, now_s=NOW_S - 300)


def test_a_member_without_root_is_certified_anew_by_a_keeper(world: Any, first: Identity) -> None:
    member = world.join(first, keeper=False)
    later_s, names = NOW_S + 25 * 86400, NodeNames.of(("198.18.77.77",))
    assert member.renewal_due(names, now_s=later_s) == "expiring"
    pending = make_renewal_request(
        member.anchor, member.keys, names=names, node_name="second", software=SOFTWARE, now_s=later_s
    )
    given = first.answer_renewal(over_the_wire(pending.request), member.node_id, now_s=later_s)
    membership = accept_join_answer(given, pending, now_s=later_s)
    assert membership.root is None
    member.take_certificate(membership.certificate, now_s=later_s)
    assert member.renewal_due(names, now_s=later_s) is None
    reopened = IdentityStore(world.folder / "home" / "second").open(now_s=later_s)
    assert reopened.certificate == membership.certificate


def test_a_renewal_is_only_for_the_node_on_the_line_and_never_for_a_removed_one(world: Any, first: Identity) -> None:
    member = world.join(first, keeper=False)
    pending = make_renewal_request(
        member.anchor, member.keys, names=NodeNames(), node_name="second", software=SOFTWARE, now_s=NOW_S
    )
    with pytest.raises(CertificateRefused, match="another node"):
        first.answer_renewal(pending.request, NodeId("0" * 16), now_s=NOW_S)
    first.remove_node(member.node_id, now_s=NOW_S)
    with pytest.raises(CertificateRefused, match="removed"):
        first.answer_renewal(pending.request, member.node_id, now_s=NOW_S)


def test_a_renewal_request_does_not_pass_for_a_request_to_join(
    world: Any, first: Identity, other_root: ClusterRoot
) -> None:
    pending = make_renewal_request(
        other_root.anchor, NodeKeys.generate(), names=NodeNames(), node_name="x", software=SOFTWARE, now_s=NOW_S
    )
    with pytest.raises(InvitationRefused):
        first.answer_join(pending.request, software=SOFTWARE, now_s=NOW_S)


@pytest.mark.parametrize(
    "refused_",
    [
        JoinRefusal(error="InvitationRefused", fields=("<script>",)),
        JoinRefusal(error="CertificateRefused", fields=(1.0,)),
        JoinRefusal(error="SystemExit", fields=()),
        JoinRefusal(error="ClockSkewed", fields=("x",)),
    ],
)
def test_a_refusal_that_is_not_understood_is_still_an_error_of_ours(refused_: JoinRefusal) -> None:
    assert isinstance(refusal_error(refused_), Malformed)
