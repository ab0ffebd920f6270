from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from cli.terminal import WRAP_MARGIN, WordWrap
from cli.text import text_width

PIECES = st.lists(st.text(alphabet="ab cde\n模é\t", max_size=8), max_size=30)


def shown(output: str) -> list[str]:
    """The lines a terminal shows: only the movements that WordWrap makes are understood."""
    lines = [""]
    for part in re.findall(r"\x1b\[\d+D\x1b\[K|\n|[^\n\x1b]", output):
        if part == "\n":
            lines.append("")
        elif part.startswith("\x1b"):
            back = int(part[2:].split("D")[0])
            while back > 0:
                back -= text_width(lines[-1][-1])
                lines[-1] = lines[-1][:-1]
        else:
            lines[-1] += part
    return lines


def wrapped(pieces: list[str], columns: int) -> str:
    wrap = WordWrap(columns)
    return "".join(map(wrap.feed, pieces))


def test_a_word_that_reaches_the_edge_moves_to_the_next_line_whole() -> None:
    assert shown(wrapped(["one two th", "ree four"], 15)) == ["one two ", "three four"]


def test_a_word_longer_than_the_line_is_cut() -> None:
    assert shown(wrapped(["abcdefghijklmno"], 15)) == ["abcdefghij", "klmno"]


def test_a_break_takes_the_place_of_the_space() -> None:
    assert shown(wrapped(["abcdefghij klm"], 15)) == ["abcdefghij", "klm"]


@given(PIECES)
def test_no_line_is_longer_than_the_terminal_and_no_letter_is_lost(pieces: list[str]) -> None:
    lines = shown(wrapped(pieces, 20))
    without_tabs = [line for line in lines if "\t" not in line]
    assert all(text_width(line) <= 20 - WRAP_MARGIN for line in without_tabs)
    assert "".join("".join(lines).split()) == "".join("".join(pieces).split())


@given(PIECES)
def test_where_the_text_is_cut_into_pieces_makes_no_difference(pieces: list[str]) -> None:
    assert wrapped(pieces, 20) == wrapped(["".join(pieces)], 20)


def test_text_is_left_alone_without_a_width() -> None:
    assert wrapped(["a" * 100, "\n"], 0) == "a" * 100 + "\n"
