"""JSON strings as a grammar: any text, text of some length, text of a pattern.

A character that JSON must escape is escaped in the grammar too; beyond that, only free text may use escapes, so
that a text that has to differ from another can't be it in disguise. Lone surrogates never come out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TypeAlias

from node.grammar.errors import InvalidSchema
from node.grammar.gbnf import EMPTY, Chars, Repeat, Term, Text, choice, sequence

Ranges: TypeAlias = tuple[tuple[int, int], ...]

QUOTE = Text('"')
HEX = Chars(((48, 57), (65, 70), (97, 102)))
# What JSON allows unescaped, less the delete character and what is no character in UTF-8.
PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, 0x10FFFF))
ESCAPED = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
ESCAPE = sequence(
    Text("\\"),
    choice(
        [
            Chars(tuple((ord(char), ord(char)) for char in '"/\\bfnrt')),
            sequence(
                Text("u"),
                choice(
                    [
                        sequence(Chars(((48, 57), (65, 67), (69, 70), (97, 99), (101, 102))), Repeat(HEX, 3, 3)),
                        sequence(Chars(((68, 68), (100, 100))), Chars(((48, 55),)), Repeat(HEX, 2, 2)),
                    ]
                ),
            ),
        ]
    ),
)
# One character of free text.
CHARACTER = choice([Chars(PLAIN), ESCAPE])


def literal(value: object) -> Term:
    """The JSON text of a value, as models usually space it."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidSchema("", "a text holds half of a surrogate pair") from None
    return Text(text)


def one_of(ranges: Iterable[tuple[int, int]]) -> Term:
    """One character of a set, within a string."""
    ranges = tuple(ranges)
    plain = intersect(ranges, PLAIN)
    escapes = [Text(text) for char, text in ESCAPED.items() if any(low <= ord(char) <= high for low, high in ranges)]
    return choice([*([Chars(plain)] if plain else []), *escapes])


def intersect(left: Iterable[tuple[int, int]], right: Iterable[tuple[int, int]]) -> Ranges:
    """Characters that are in both sets."""
    right = tuple(right)
    both = ((max(a, c), min(b, d)) for a, b in left for c, d in right)
    return tuple(sorted((low, high) for low, high in both if low <= high))


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Characters that are not in a set."""
    gaps, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            gaps.append((start, low - 1))
        start = max(start, high + 1)
    return (*gaps, (start, 0x10FFFF)) if start <= 0x10FFFF else tuple(gaps)


class OtherKeys:
    """Builds the grammar of an object's key that is none of some known ones.

    Unescaped characters only: else a known key could be spelt with an escape.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = frozenset(known)

    def term(self) -> Term:
        """The key with its quotes."""
        return sequence(QUOTE, self._after(""), QUOTE)

    def _after(self, prefix: str) -> Term:
        """What may follow a beginning of known keys."""
        any_rest = Repeat(Chars(PLAIN), 0, None)
        following = sorted({key[len(prefix)] for key in self._known if key.startswith(prefix) and key != prefix})
        plain = [char for char in following if intersect([(ord(char), ord(char))], PLAIN)]
        if not following and prefix not in self._known:
            return any_rest
        elsewhere = intersect(PLAIN, complement((ord(char), ord(char)) for char in plain))
        options: list[Term] = [] if prefix in self._known else [EMPTY]
        options.append(sequence(Chars(elsewhere), any_rest))
        options += [sequence(Text(char), self._after(prefix + char)) for char in plain]
        return choice(options)
