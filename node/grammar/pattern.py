"""Regular expressions of JSON schemas, as a grammar: the part of ECMA-262 that describes a regular language.

Where engines differ (what is a digit, a letter or a space beyond ASCII), only what all agree on is written. What
can't be kept by a grammar (look-around, back-references, word boundaries, anchors inside) raises InvalidSchema.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from node.grammar.errors import InvalidSchema
from node.grammar.gbnf import EMPTY, MAX_REPEATS, NEVER, Grammar, Term, choice, sequence
from node.grammar.strings import CHARACTER, QUOTE, Ranges, complement, intersect, one_of

MAX_PATTERN_CHARS = 4096
MAX_DEPTH = 50

ASCII: Ranges = ((0x20, 0x7E),)
DIGITS: Ranges = ((48, 57),)
WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
SPACES: Ranges = ((9, 13), (32, 32))
LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x85, 0x85), (0x2028, 0x2029))
CLASSES = {
    "d": DIGITS,
    "w": WORD,
    "s": ((32, 32),),
    "D": intersect(complement(DIGITS), ASCII),
    "W": intersect(complement(WORD), ASCII),
    "S": intersect(complement(SPACES), ASCII),
}
CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
REPEAT = re.compile(r"(\*|\+|\?|\{(\d{1,9})(,(\d{1,9})?)?\})\??")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the language and the lengths of its words; `longest` None: any."""

    term: Term
    shortest: int
    longest: int | None


NOTHING = Piece(EMPTY, 0, 0)


def pattern_string(pattern: str, grammar: Grammar, *, least: int = 0, most: int | None = None) -> Term:
    """JSON strings in which the pattern is found, of `least` to `most` characters.

    Raises: InvalidSchema: the pattern is malformed or beyond us, or does not keep to those lengths by itself.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise InvalidSchema("", "the pattern is too long")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        raise InvalidSchema("", "the pattern is malformed") from None
    piece = Reader(pattern, grammar).whole()
    if piece.shortest < least or (most is not None and (piece.longest is None or piece.longest > most)):
        raise InvalidSchema("", "the pattern does not by itself keep to minLength and maxLength")
    return sequence(QUOTE, piece.term, QUOTE)


class Reader:
    """Recursive descent over a pattern that Python's `re` accepts."""

    def __init__(self, pattern: str, grammar: Grammar) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0
        self._grammar = grammar

    def whole(self) -> Piece:
        """The pattern as it is searched for: any text around it where it is not anchored."""
        around = Piece(self._grammar.repeat(self._grammar.rule("char", CHARACTER), 0, None), 0, None)
        options = []
        while True:
            before = NOTHING if self._take("^") else around
            middle = self._sequence(top=True)
            after = NOTHING if self._take("$") else around
            options.append(_joined([before, middle, after]))
            if not self._take("|"):
                break
        if self._at < len(self._text):
            raise self._beyond("an anchor inside")
        return _either(options)

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _beyond(self, what: str) -> InvalidSchema:
        return InvalidSchema("", f"the pattern uses {what}, which can't be guaranteed")

    def _sequence(self, *, top: bool = False) -> Piece:
        parts = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            if top and self._text[self._at] == "$":
                break
            parts.append(self._repeated(self._atom()))
        return _joined(parts)

    def _atom(self) -> Piece:
        char = self._text[self._at]
        self._at += 1
        if char == "(":
            return self._group()
        if char == "[":
            return self._chars(self._set())
        if char == ".":
            return self._chars(complement(LINE_ENDS))
        if char in "^$":
            raise self._beyond("an anchor inside")
        if char == "\\":
            return self._chars(self._escape()[0])
        return self._chars(((ord(char), ord(char)),))

    def _group(self) -> Piece:
        if self._take("?") and not self._take(":"):
            name = re.compile(r"(?:P?<)[A-Za-z_]\w*>").match(self._text, self._at)
            if name is None:
                raise self._beyond("look-around or flags")
            self._at = name.end()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._beyond("too many nested groups")
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        self._take(")")
        self._depth -= 1
        return _either(options)

    def _chars(self, ranges: Ranges) -> Piece:
        term = one_of(ranges)
        return Piece(NEVER if not ranges else term, 1, 1)

    def _set(self) -> Ranges:
        """A bracketed set; its `[` has been read."""
        inverted = self._take("^")
        ranges: list[tuple[int, int]] = []
        shorthand = False
        first = True
        while first or self._text[self._at] != "]":
            first = False
            low, single = self._member()
            shorthand |= not single
            if single and self._text.startswith("-", self._at) and self._text[self._at + 1] != "]":
                self._at += 1
                high, also_single = self._member()
                if not also_single:
                    raise self._beyond("a range that ends in a class")
                ranges.append((low[0][0], high[0][0]))
            else:
                ranges += low
        self._at += 1
        if not inverted:
            return tuple(ranges)
        # Outside ASCII, engines disagree on what \w, \d and \s hold, and so on what is left.
        rest = complement([*ranges, *(SPACES if shorthand else ())])
        return intersect(rest, ASCII) if shorthand else rest

    def _member(self) -> tuple[Ranges, bool]:
        """A member of a set, and whether it is a single character."""
        char = self._text[self._at]
        self._at += 1
        return self._escape(in_set=True) if char == "\\" else (((ord(char), ord(char)),), True)

    def _escape(self, *, in_set: bool = False) -> tuple[Ranges, bool]:
        char = self._text[self._at]
        self._at += 1
        if char in CLASSES:
            return CLASSES[char], False
        if char in "xu" and (code := re.compile(r"[0-9a-fA-F]+").match(self._text, self._at)):
            digits = code[0][: 2 if char == "x" else 4]
            self._at += len(digits)
            return ((int(digits, 16), int(digits, 16)),), True
        if char == "b" and in_set:
            return ((8, 8),), True
        if char in CONTROLS and not self._text[self._at : self._at + 1].isdigit():
            return ((CONTROLS[char], CONTROLS[char]),), True
        if char.isalnum():
            raise self._beyond(f"\\{char}")
        return ((ord(char), ord(char)),), True

    def _repeated(self, piece: Piece) -> Piece:
        match = REPEAT.match(self._text, self._at)
        if match is None:
            if self._text.startswith("{,", self._at):
                raise self._beyond("a repetition that engines read differently")
            return piece
        self._at = match.end()
        if self._text.startswith("+", self._at):
            raise self._beyond("a possessive repetition")
        sign = match[1][0]
        least = {"*": 0, "+": 1, "?": 0}.get(sign, int(match[2] or 0))
        most: int | None = {"*": None, "+": None, "?": 1}[sign] if sign != "{" else int(match[4] or match[2])
        if sign == "{" and match[3] == ",":
            most = None
        if most is None and piece.shortest == 0:
            raise self._beyond("an endless repetition of what may be empty")
        if most is not None:
            most = min(most, MAX_REPEATS)
        term = self._grammar.repeat(piece.term, least, most)
        longest = None if most is None or piece.longest is None else piece.longest * most
        return Piece(term, piece.shortest * least, longest)


def _joined(parts: list[Piece]) -> Piece:
    longest = [part.longest for part in parts]
    known = [length for length in longest if length is not None]
    return Piece(
        sequence(*(part.term for part in parts)),
        sum(part.shortest for part in parts),
        sum(known) if len(known) == len(longest) else None,
    )


def _either(options: list[Piece]) -> Piece:
    longest = [option.longest for option in options]
    known = [length for length in longest if length is not None]
    return Piece(
        choice(option.term for option in options),
        min(option.shortest for option in options),
        max(known) if len(known) == len(longest) else None,
    )


Formats: TypeAlias = dict[str, str]
# Values that every checker of the format takes; a format that is not here is only an annotation, as the standard
# has it. February ends on the 28th.
FORMATS: Formats = {
    "date": r"^{date}$",
    "time": r"^{time}$",
    "date-time": r"^{date}T{time}$",
    "duration": r"^P([1-9]\d{{0,4}}D|T[1-9]\d{{0,4}}[HMS])$",
    "uuid": r"^[0-9a-f]{{8}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{12}}$",
    "email": r"^[A-Za-z0-9]{{1,20}}([._+-][A-Za-z0-9]{{1,20}}){{0,3}}@{host}$",
    "hostname": r"^{host}$",
    "ipv4": r"^({octet}\.){{3}}{octet}$",
    "uri": r"^https?://{host}(/[A-Za-z0-9._~-]{{1,60}}){{0,8}}/?(\?[A-Za-z0-9._~=&-]{{1,100}})?$",
}
_PARTS = {
    "date": r"[12]\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))",
    "time": r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{3}(\d{3})?)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    "host": r"[A-Za-z0-9]{1,30}(-[A-Za-z0-9]{1,20}){0,2}(\.[A-Za-z0-9]{1,30}){0,3}\.[A-Za-z]{2,8}",
    "octet": r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)",
}


def pattern_of_format(name: str) -> str | None:
    """A pattern whose words are all of the format; None where it is only an annotation."""
    form = FORMATS.get(name)
    return form.format(**_PARTS) if form else None
