from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from node.engine.text import StopFilter, TokenText

# Few letters, so that stop strings overlap the text and each other often.
short = st.text("ab ", max_size=12)
stops = st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def until_stop(text: str, stop_strings: list[str]) -> str:
    """The text before the stop string that is complete first (of those, the one that begins first)."""
    for end in range(1, len(text) + 1):
        begins = [end - len(s) for s in stop_strings if text[:end].endswith(s)]
        if begins:
            return text[: min(begins)]
    return text


@given(st.text(max_size=40), st.lists(st.integers(0, 200)))
def test_characters_cut_anywhere_come_out_whole(text: str, cuts: list[int]) -> None:
    decoder = TokenText()
    out = "".join(decoder.feed(p) for p in pieces_of(text.encode(), cuts)) + decoder.finish()
    assert out == text


@given(st.binary(max_size=40), st.lists(st.integers(0, 200)))
def test_bytes_that_are_no_text_give_the_same_replacement_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole, cut = TokenText(), TokenText()
    assert whole.feed(data) == "".join(cut.feed(p) for p in pieces_of(data, cuts))


def test_a_character_whose_end_never_comes_is_dropped() -> None:
    decoder = TokenText()
    assert decoder.feed("né".encode()[:2]) + decoder.finish() == "n"


@given(short, stops, st.lists(st.integers(0, 50)))
def test_a_stop_string_ends_the_text_before_itself(text: str, stop_strings: list[str], cuts: list[int]) -> None:
    filter_ = StopFilter(stop_strings)
    out = "".join(filter_.feed(piece.decode()) for piece in pieces_of(text.encode(), cuts)) + filter_.finish()
    assert out == until_stop(text, stop_strings)
    assert filter_.stopped == (out != text)


@given(short, stops, st.lists(st.integers(0, 50)))
def test_nothing_is_sent_that_a_later_stop_string_would_take_back(
    text: str, stop_strings: list[str], cuts: list[int]
) -> None:
    filter_ = StopFilter(stop_strings)
    sent = ""
    for piece in pieces_of(text.encode(), cuts):
        sent += filter_.feed(piece.decode())
        assert text.startswith(sent)
        assert not any(stop in sent for stop in stop_strings)
    sent += filter_.finish()
    assert not any(stop in sent for stop in stop_strings)


def test_text_is_held_back_only_while_it_may_become_a_stop_string() -> None:
    filter_ = StopFilter(["</end>"])
    assert filter_.feed("one </en") == "one "
    assert filter_.feed("try") == "</entry"
    assert filter_.feed("</end> more") == ""
    assert filter_.stopped
    assert filter_.feed("more") == filter_.finish() == ""


def test_empty_stop_strings_are_ignored() -> None:
    filter_ = StopFilter([""])
    assert filter_.feed("abc") == "abc"
    assert not filter_.stopped
