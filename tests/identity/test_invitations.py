from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.identity import ClusterRoot, Invitation, InvitationBook, InvitationRefused, NodeId, UnusableFile
from node.identity.invitations import PREFIX, REMEMBERED_S

NOW_S = 1_800_000_000.0
A, B, C = NodeId("a" * 16), NodeId("b" * 16), NodeId("c" * 16)


@pytest.fixture
def book(tmp_path: Path) -> InvitationBook:
    return InvitationBook(tmp_path / "invitations")


def invite(book: InvitationBook, root: ClusterRoot, **terms: Any) -> Invitation:
    usual = {"cluster_name": "home", "addresses": ["198.18.77.11:11435"], "lifetime_s": 900, "now_s": NOW_S}
    return book.invite(root, **(usual | terms))


def reason(call: Any, *args: Any, **named: Any) -> str:
    with pytest.raises(InvitationRefused) as refused:
        call(*args, **named)
    return refused.value.reason


def test_the_line_says_whom_to_trust_and_where_to_dial(book: InvitationBook, root: ClusterRoot) -> None:
    made = invite(book, root, addresses=["198.18.77.11:11435", "[fd00::11]:11435", "first.local:11435"], uses=3)
    read = Invitation.parse(made.text)
    assert read == made
    assert (read.root_key, read.cluster_id) == (root.anchor.raw_root_key, root.anchor.cluster_id)
    assert read.addresses == ("198.18.77.11:11435", "[fd00::11]:11435", "first.local:11435")
    assert (read.cluster_name, read.expires_at_s, read.uses) == ("home", int(NOW_S + 900), 3)
    assert "\n" not in made.text
    assert " " not in made.text
    assert len(made.text) < 400


def test_a_line_wrapped_by_a_mail_program_is_still_read(book: InvitationBook, root: ClusterRoot) -> None:
    made = invite(book, root)
    wrapped = "\n  ".join(made.text[start : start + 60] for start in range(0, len(made.text), 60))
    assert Invitation.parse(f"  {wrapped}\r\n") == made


# A list of three, the last of which has no end: too deep to be skipped.
NESTED = PREFIX + base64.urlsafe_b64encode(b"\x93\xc4\x00\xc4\x00" + b"\x91" * 2500 + b"\x90").rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text", ["", "hello", PREFIX, PREFIX + "AAAA", PREFIX + "!!", "x" * 5000, PREFIX + "é", "\ud800", NESTED]
)
def test_what_is_no_invitation_is_called_damaged(text: str) -> None:
    assert reason(Invitation.parse, text) == "damaged"


@pytest.fixture(scope="module")
def line(root: ClusterRoot, tmp_path_factory: pytest.TempPathFactory) -> Invitation:
    return invite(InvitationBook(tmp_path_factory.mktemp("book") / "invitations"), root)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_no_invitation_survives_a_changed_character_with_another_meaning(line: Invitation, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(line.text) - 1))
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c != line.text[place]))
    try:
        read = Invitation.parse(line.text[:place] + other + line.text[place + 1 :])
    except InvitationRefused:
        return
    # Only the unused bits of the last character can differ.
    assert place == len(line.text) - 1
    assert (read.id, read.secret, read.root_key) == (line.id, line.secret, line.root_key)


def test_half_a_line_is_called_damaged(book: InvitationBook, root: ClusterRoot) -> None:
    text = invite(book, root).text
    assert {reason(Invitation.parse, text[:length]) for length in range(0, len(text) - 1, 7)} == {"damaged"}


def test_a_request_counts_only_with_the_secret_of_this_invitation(book: InvitationBook, root: ClusterRoot) -> None:
    made, other = invite(book, root), invite(book, root)
    kept = book.find(made.id)
    kept.check(b"request", made.proof(b"request"), now_s=NOW_S)
    for proof in (b"", bytes(32), other.proof(b"request"), made.proof(b"another request"), made.proof(b"request")[:31]):
        assert reason(kept.check, b"request", proof, now_s=NOW_S) == "forged"


def test_an_invitation_ends_by_the_inviting_clock(book: InvitationBook, root: ClusterRoot) -> None:
    made = invite(book, root, lifetime_s=60)
    kept = book.find(made.id)
    kept.check(b"request", made.proof(b"request"), now_s=NOW_S + 59.9)
    assert reason(kept.check, b"request", made.proof(b"request"), now_s=NOW_S + 60) == "expired"


def test_the_same_request_is_not_answered_twice(book: InvitationBook, root: ClusterRoot) -> None:
    made = invite(book, root, uses=5)
    kept = book.find(made.id).used_by(A, b"request")
    assert reason(kept.check, b"request", made.proof(b"request"), now_s=NOW_S) == "replayed"


def test_each_machine_counts_once_and_no_more_than_were_invited(book: InvitationBook, root: ClusterRoot) -> None:
    kept = book.find(invite(book, root, uses=2).id)
    kept = kept.used_by(A, b"1").used_by(A, b"2").used_by(B, b"3")
    assert kept.uses_left == 0
    assert reason(kept.used_by, C, b"4") == "used up"
    # A machine whose answer was lost may ask again.
    assert kept.used_by(B, b"5").joined == (A, B)


def test_a_use_is_remembered_over_a_restart(book: InvitationBook, root: ClusterRoot, tmp_path: Path) -> None:
    made = invite(book, root)
    book.keep(book.find(made.id).used_by(A, b"request"), now_s=NOW_S)
    again = InvitationBook(tmp_path / "invitations").find(made.id)
    assert again.joined == (A,)
    assert reason(again.used_by, B, b"other") == "used up"
    assert reason(again.check, b"request", made.proof(b"request"), now_s=NOW_S) == "replayed"


def test_a_cancelled_or_foreign_invitation_is_unknown(book: InvitationBook, root: ClusterRoot, tmp_path: Path) -> None:
    made, other = invite(book, root), invite(book, root)
    book.cancel(made.id, now_s=NOW_S)
    assert reason(book.find, made.id) == "unknown"
    assert [kept.id for kept in book.open(now_s=NOW_S)] == [other.id]
    assert reason(InvitationBook(tmp_path / "invitations").find, made.id) == "unknown"


def test_late_comers_are_told_that_it_expired_and_then_it_is_forgotten(book: InvitationBook, root: ClusterRoot) -> None:
    made = invite(book, root, lifetime_s=60)
    invite(book, root, now_s=NOW_S + 1000)
    assert reason(book.find(made.id).check, b"", made.proof(b""), now_s=NOW_S + 1000) == "expired"
    invite(book, root, now_s=NOW_S + 61 + REMEMBERED_S)
    assert reason(book.find, made.id) == "unknown"


@pytest.mark.parametrize(
    "terms",
    [
        {"lifetime_s": 0},
        {"lifetime_s": -5},
        {"lifetime_s": 8 * 86400},
        {"lifetime_s": float("nan")},
        {"uses": 0},
        {"uses": 1001},
        {"addresses": []},
        {"addresses": ["198.18.77.11:1"] * 17},
    ],
)
def test_an_invitation_out_of_bounds_is_not_made(
    book: InvitationBook, root: ClusterRoot, terms: dict[str, Any]
) -> None:
    with pytest.raises(ValueError):
        invite(book, root, **terms)


def test_a_damaged_book_is_named(tmp_path: Path) -> None:
    path = tmp_path / "invitations"
    path.write_bytes(b"\xff\xff")
    path.chmod(0o600)
    with pytest.raises(UnusableFile, match=r"invitations.*damaged"):
        InvitationBook(path)


def test_no_repr_holds_the_secret(book: InvitationBook, root: ClusterRoot) -> None:
    made = invite(book, root)
    for shown in (repr(made), str(made), repr(book.find(made.id)), repr(book.open(now_s=NOW_S))):
        assert repr(made.secret)[2:-1] not in shown
        assert made.secret.hex() not in shown
        assert made.text[20:60] not in shown
