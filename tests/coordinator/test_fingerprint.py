from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.fingerprint import BLOCK_BYTES, FIRST_MARKS, LAST_MARKS, MAX_MARKS, PrefixLedger, after_reply, fingerprint
from node.jobs import Chat, Infill, Message, Raw, ToolCall


def said(*contents: str, role: str = "user") -> Chat:
    return Chat(messages=tuple(Message(role=role, content=content) for content in contents))


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Length of the common beginning; a chain has no common part after it."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    assert not set(one[length:]) & set(other[length:])
    return length


def test_a_longer_conversation_begins_with_the_marks_of_the_shorter() -> None:
    short, long = fingerprint(said("one", "two")), fingerprint(said("one", "two", "three"))
    assert long.hashes[: len(short.hashes)] == short.hashes
    assert long.tokens[: len(short.tokens)] == short.tokens


def test_the_next_turn_is_known_before_it_comes() -> None:
    first = said("hello")
    reply = Message(role="assistant", content="good day")
    next_turn = Chat(messages=(*first.messages, reply, Message(role="user", content="and now?")))
    assert after_reply(first, reply).hashes[-1] in fingerprint(next_turn).hashes


def test_a_long_shared_document_is_marked_inside() -> None:
    document = "x" * (5 * BLOCK_BYTES)
    one, other = fingerprint(said(document + "first question")), fingerprint(said(document + "another"))
    assert shared(one.hashes, other.hashes) == 5
    assert one.tokens[4] == 5 * BLOCK_BYTES // 4 + 4


def test_what_a_template_shows_changes_the_fingerprint() -> None:
    plain = said("hello")
    assert shared(fingerprint(plain).hashes, fingerprint(Chat(messages=plain.messages, tools=({"a": 1},))).hashes) == 0
    assert shared(fingerprint(plain).hashes, fingerprint(said("hello", role="system")).hashes) == 0
    assert shared(fingerprint(plain).hashes, fingerprint(Raw(prompt="hello")).hashes) == 0
    called = Chat(messages=(Message(role="user", content="hello", tool_calls=(ToolCall(name="f", arguments={}),)),))
    assert fingerprint(called).hashes != fingerprint(plain).hashes


def test_where_a_message_ends_matters() -> None:
    assert shared(fingerprint(said("ab", "c")).hashes, fingerprint(said("a", "bc")).hashes) == 0
    one, other = Infill(prefix="ab", suffix="c"), Infill(prefix="a", suffix="bc")
    assert shared(fingerprint(one).hashes, fingerprint(other).hashes) == 0


def test_token_prompts_are_counted_exactly() -> None:
    marks = fingerprint(Raw(prompt=tuple(range(1500))))
    assert (marks.tokens, marks.total_tokens) == ((512, 1024, 1500), 1500)


def test_fill_in_prompts_share_what_stands_before_the_cursor() -> None:
    before = "y" * BLOCK_BYTES
    assert (
        shared(
            fingerprint(Infill(prefix=before, suffix="end")).hashes,
            fingerprint(Infill(prefix=before + "z", suffix="end")).hashes,
        )
        == 1
    )


def test_the_middle_of_a_very_long_conversation_is_dropped_alike_on_both_sides() -> None:
    contents = [f"message {number}" for number in range(200)]
    cached, asked = fingerprint(said(*contents)), fingerprint(said(*contents, "answer", "next"))
    assert len(cached.hashes) == len(asked.hashes) == MAX_MARKS
    assert cached.hashes[-1] in asked.hashes
    assert set(cached.hashes[:FIRST_MARKS]) <= set(asked.hashes)
    assert len(set(cached.hashes) & set(asked.hashes)) == FIRST_MARKS + LAST_MARKS - 2


@given(st.lists(st.text(max_size=5000), max_size=8))
def test_marks_are_in_order_and_bounded(contents: list[str]) -> None:
    marks = fingerprint(said(*contents))
    assert list(marks.tokens) == sorted(marks.tokens)
    assert len(marks.hashes) == len(marks.tokens) <= MAX_MARKS
    assert all(tokens <= marks.total_tokens for tokens in marks.tokens)
    assert len(set(marks.hashes)) == len(marks.hashes)


def test_a_sequence_holds_its_prompts_marks_until_it_is_cut() -> None:
    ledger, marks = PrefixLedger(), fingerprint(said("one", "two", "three"))
    ledger.place(0, 0)
    ledger.evaluated(0, marks, 60)
    assert ledger.hashes() == frozenset(marks.hashes)
    ledger.place(0, 40)
    assert ledger.hashes() == frozenset(marks.hashes[:2])
    ledger.place(0, 0)
    assert ledger.hashes() == frozenset()


def test_a_copied_sequence_has_the_marks_of_both() -> None:
    ledger, marks = PrefixLedger(), fingerprint(said("one", "two"))
    ledger.evaluated(0, marks, 60)
    ledger.place(1, 60, source=0)
    ledger.place(0, 0)
    assert ledger.hashes() == frozenset(marks.hashes)


def test_a_ledger_is_bounded_however_long_a_sequence_is_reused() -> None:
    ledger = PrefixLedger()
    for number in range(40):
        ledger.place(0, 10_000)
        ledger.evaluated(0, fingerprint(said(*map(str, range(number * 10, number * 10 + 30)))), 10_000)
    assert len(ledger.hashes()) <= MAX_MARKS
