from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from node.identity import (
    ClusterRoot,
    Forged,
    InvalidClusterName,
    Ledger,
    Malformed,
    NodeId,
    Signed,
    UnusableFile,
    decode_records,
    encode_records,
    issue_token,
)
from node.identity.ledger import MARGIN_S, MAX_RECORDS, NodeRevoked, TokenRevoked

NOW_S = 1_800_000_000.0
A, B = NodeId("a" * 16), NodeId("b" * 16)


def fresh(root: ClusterRoot, path: Path | None = None, *, now_s: float = NOW_S) -> Ledger:
    return Ledger(root.anchor, path, now_s=now_s)


def test_a_revocation_spreads_by_merging_and_is_new_only_once(root: ClusterRoot) -> None:
    here, there = fresh(root), fresh(root)
    here.revoke_node(root, A, now_s=NOW_S)
    here.revoke_token(root, "t1", now_s=NOW_S)
    travelled = decode_records(encode_records(here.records(there.keys())))
    assert there.merge(travelled, now_s=NOW_S) == [
        NodeRevoked(node=A, at_ms=int(NOW_S * 1000)),
        TokenRevoked(token_id="t1"),
    ]
    assert there.merge(travelled, now_s=NOW_S) == []
    assert (there.is_node_revoked(A), there.is_node_revoked(B), there.is_token_revoked("t1")) == (True, False, True)
    assert here.records(there.keys()) == []


@pytest.fixture(scope="module")
def pool(root: ClusterRoot) -> list[Signed]:
    ledger = fresh(root)
    for number in range(5):
        ledger.revoke_token(root, f"t{number}", now_s=NOW_S)
        ledger.revoke_node(root, NodeId(f"{number:016x}"), now_s=NOW_S)
        ledger.name_cluster(root, f"name-{number}", now_s=NOW_S + number % 2)
    return ledger.records()


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_ledgers_agree_however_records_reach_them(root: ClusterRoot, pool: list[Signed], data: st.DataObject) -> None:
    """Merging is commutative, associative and idempotent, so every order of gossip ends the same."""
    batches = data.draw(st.lists(st.lists(st.sampled_from(pool), max_size=6), max_size=6))
    one, two, all_at_once = fresh(root), fresh(root), fresh(root)
    for batch in batches:
        one.merge(batch, now_s=NOW_S)
    for batch in reversed(batches):
        two.merge(batch + batch[:2], now_s=NOW_S)
    all_at_once.merge([record for batch in batches for record in batch], now_s=NOW_S)
    two.merge(one.records(), now_s=NOW_S)
    prints = {ledger.fingerprint(now_s=NOW_S) for ledger in (one, two, all_at_once)}
    assert len(prints) == 1
    assert len({ledger.cluster_name() for ledger in (one, two, all_at_once)}) == 1


def test_records_of_another_root_and_altered_ones_are_refused_with_all_that_came_along(
    root: ClusterRoot, other_root: ClusterRoot
) -> None:
    good, foreign = fresh(root), fresh(other_root)
    good.revoke_node(root, A, now_s=NOW_S)
    foreign.revoke_node(other_root, B, now_s=NOW_S)
    [record] = good.records()
    ledger = fresh(root)
    for bad in (
        foreign.records()[0],
        replace(record, payload=record.payload.replace(b"a" * 16, b"b" * 16)),
        replace(record, signature=bytes(64)),
        replace(record, signature=b""),
    ):
        with pytest.raises(Forged):
            ledger.merge([record, bad] if bad.payload != record.payload else [bad], now_s=NOW_S)
    assert ledger.records() == []
    assert not ledger.is_node_revoked(A)


def test_a_signature_made_for_something_else_is_no_record(root: ClusterRoot) -> None:
    invitation = root.sign("invitation", b"\x83")
    with pytest.raises(Forged):
        fresh(root).merge([invitation], now_s=NOW_S)
    with pytest.raises(Malformed):
        fresh(root).merge([root.sign("record", b"\x83")], now_s=NOW_S)
    with pytest.raises(Malformed):
        fresh(root).merge([root.sign("record", bytes(20_000))], now_s=NOW_S)


def test_messages_are_bounded_and_revocations_travel_first(root: ClusterRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.identity.ledger.MAX_RECORDS", 2)
    ledger = fresh(root)
    for number in range(3):
        token = issue_token(root, f"t{number}", scopes=["infer"], lifetime_s=60, now_s=NOW_S)
        ledger.list_token(root, token.grant, now_s=NOW_S)
    ledger.revoke_node(root, A, now_s=NOW_S)
    follower = fresh(root)
    rounds = []
    while missing := ledger.records(follower.keys()):
        rounds.append(len(follower.merge(missing, now_s=NOW_S)))
        assert follower.is_node_revoked(A)
    assert rounds == [2, 2]


def test_expired_tokens_are_dropped_everywhere_and_revocations_stay(root: ClusterRoot, tmp_path: Path) -> None:
    here, there = fresh(root, tmp_path / "ledger"), fresh(root)
    token = issue_token(root, "t", scopes=["infer"], lifetime_s=60, now_s=NOW_S)
    here.list_token(root, token.grant, now_s=NOW_S)
    here.revoke_token(root, token.grant.token_id, now_s=NOW_S)
    here.revoke_node(root, A, now_s=NOW_S)
    old = here.records()
    there.merge(old, now_s=NOW_S)
    late_s = NOW_S + 60 + MARGIN_S
    assert here.fingerprint(now_s=late_s - 1) == there.fingerprint(now_s=late_s - 1)
    assert len(here.records()) == 3
    there.fingerprint(now_s=late_s)
    assert here.fingerprint(now_s=late_s) == there.fingerprint(now_s=late_s) != b""
    assert [ledger.tokens() for ledger in (here, there)] == [[], []]
    # Somebody who was asleep brings the old records back: they stay out.
    assert there.merge(old, now_s=late_s) == []
    assert (there.is_node_revoked(A), there.is_token_revoked(token.grant.token_id)) == (True, True)


def test_a_clock_that_was_far_ahead_makes_no_revoked_token_good_again(root: ClusterRoot, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = fresh(root, path)
    token = issue_token(root, "t", scopes=["infer"], lifetime_s=60, now_s=NOW_S)
    ledger.list_token(root, token.grant, now_s=NOW_S)
    ledger.revoke_token(root, token.grant.token_id, now_s=NOW_S)
    ahead_s = NOW_S + 40 * 86400
    ledger.fingerprint(now_s=ahead_s)
    fresh(root, path, now_s=ahead_s).revoke_node(root, A, now_s=ahead_s)
    ledger.revoke_node(root, A, now_s=NOW_S)
    for each in (ledger, fresh(root, path)):
        assert each.is_token_revoked(token.grant.token_id)


def test_revocations_are_kept_over_a_restart(root: ClusterRoot, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = fresh(root, path)
    ledger.revoke_node(root, A, now_s=NOW_S)
    ledger.revoke_token(root, "t1", now_s=NOW_S)
    again = fresh(root, path)
    assert (again.is_node_revoked(A), again.is_token_revoked("t1")) == (True, True)
    assert again.fingerprint(now_s=NOW_S) == ledger.fingerprint(now_s=NOW_S)


def test_what_could_not_be_written_does_not_count(
    root: ClusterRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = fresh(root, tmp_path / "ledger")
    before = ledger.fingerprint(now_s=NOW_S)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ledger.revoke_token(root, "t1", now_s=NOW_S)
    assert ledger.fingerprint(now_s=NOW_S) == before
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_ledger_stops_the_start(root: ClusterRoot, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    fresh(root, path).revoke_node(root, A, now_s=NOW_S)
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole.replace(A.encode(), B.encode())):
        assert damaged != whole
        path.write_bytes(damaged)
        with pytest.raises(UnusableFile, match="revocations is damaged"):
            fresh(root, path)


def test_the_latest_name_counts(root: ClusterRoot) -> None:
    ledger, other = fresh(root), fresh(root)
    ledger.name_cluster(root, "home", now_s=NOW_S)
    other.name_cluster(root, "Office", now_s=NOW_S + 1)
    ledger.merge(other.records(), now_s=NOW_S)
    other.merge(ledger.records(), now_s=NOW_S)
    assert (ledger.cluster_name(), other.cluster_name()) == ("office", "office")
    with pytest.raises(InvalidClusterName):
        ledger.name_cluster(root, "not.a.label", now_s=NOW_S)


def test_every_member_can_list_the_tokens_but_has_none_of_them(root: ClusterRoot) -> None:
    here, there = fresh(root), fresh(root)
    tokens = [issue_token(root, name, scopes=["infer"], lifetime_s=60, now_s=NOW_S) for name in ("a", "b")]
    for token in tokens:
        here.list_token(root, token.grant, now_s=NOW_S)
    there.merge(here.records(), now_s=NOW_S)
    assert {grant.token_id for grant in there.tokens()} == {token.grant.token_id for token in tokens}
    shown = encode_records(there.records())
    assert not [token for token in tokens if token.text.rpartition(".")[2].encode() in shown]


# One record with a third part that nobody reads and that has no end.
NESTED = b"\x91\x93\xc4\x00\xc4\x00" + b"\x91" * 2500 + b"\x90"


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x01", b"\x91\x92\x01\x02", b"\xdd\xff\xff\xff\xff", NESTED])
def test_bytes_that_are_no_records_are_refused(content: bytes) -> None:
    with pytest.raises(Malformed):
        decode_records(content)


def test_a_message_with_too_many_records_is_refused(root: ClusterRoot) -> None:
    signed = Signed(b"", b"")
    with pytest.raises(Malformed):
        decode_records(encode_records([signed] * (MAX_RECORDS + 1)))
    with pytest.raises(Malformed):
        fresh(root).merge([signed] * (MAX_RECORDS + 1), now_s=NOW_S)
