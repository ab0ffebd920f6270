"""Build a context-free grammar and write it as GBNF, the notation of llama.cpp's grammar parser.

What llama.cpp would take ill is dealt with here: a repetition written `{m,n}` is silently unbounded beyond 2,000,
a rule that can never end traps the model, and a rule may not begin with itself. Repetitions of any size are spelt
out in rules of about the square root of it, and alternatives that can't end are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from node.grammar.errors import InvalidSchema

# llama.cpp copies and walks these at each request; a thousand properties fit well within.
MAX_ELEMENTS = 100_000
MAX_REPEATS = 1 << 16
DIRECT_REPEATS = 64


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly this."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of these ranges (code points, ends included)."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Whatever the named rule says."""

    name: str


@dataclass(frozen=True, slots=True)
class Row:
    """One after the other; nothing, where empty."""

    parts: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these; impossible, where empty."""

    options: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """From `least` to `most` times; `most` None: any number."""

    what: Term
    least: int
    most: int | None


Term: TypeAlias = "Text | Chars | Rule | Row | Choice | Repeat"

EMPTY = Row(())
NEVER = Choice(())


def sequence(*parts: Term) -> Term:
    """Parts in a row, flattened."""
    if NEVER in parts:
        return NEVER
    flat: list[Term] = []
    for part in parts:
        flat += part.parts if isinstance(part, Row) else (part,)
    return flat[0] if len(flat) == 1 else Row(tuple(flat))


def choice(options: Iterable[Term]) -> Term:
    """One of the options, each once."""
    flat: dict[Term, None] = {}
    for option in options:
        flat |= dict.fromkeys(option.options if isinstance(option, Choice) else (option,))
    return next(iter(flat)) if len(flat) == 1 else Choice(tuple(flat))


def optional(term: Term) -> Term:
    """The term or nothing."""
    return choice([term, EMPTY])


class Grammar:
    """Rules by name. A rule may be named before it is defined."""

    def __init__(self) -> None:
        self._rules: dict[str, Term] = {}
        self._elements = 0
        self._repeats: dict[tuple[Term, int, int | None], Term] = {}

    def new_name(self, hint: str) -> str:
        """A free name; letters, digits and dashes of the hint are kept for the reader."""
        base = "".join(char if char.isascii() and char.isalnum() else "-" for char in hint[:40]).strip("-") or "r"
        name = f"{base}-{len(self._rules)}"
        self._rules[name] = NEVER
        return name

    def define(self, name: str, term: Term) -> Rule:
        """Set what a rule says. Raises InvalidSchema where the grammar gets too large."""
        self._elements += _size(term) + 1
        if self._elements > MAX_ELEMENTS:
            raise InvalidSchema("", "the schema is too large")
        self._rules[name] = term
        return Rule(name)

    def rule(self, hint: str, term: Term) -> Term:
        """A rule of its own for a term that is more than a word."""
        return (
            term
            if isinstance(term, Rule | Text | Chars) or term in (EMPTY, NEVER)
            else self.define(self.new_name(hint), term)
        )

    def repeat(self, what: Term, least: int, most: int | None) -> Term:
        """`what` from `least` to `most` times. A `most` beyond MAX_REPEATS becomes that."""
        if least > MAX_REPEATS:
            raise InvalidSchema("", f"a repetition of at least {least} is too long")
        if most is not None:
            most = min(most, MAX_REPEATS)
            if most < least:
                return NEVER
        if what == NEVER:
            return EMPTY if least == 0 else NEVER
        if most == 0 or what == EMPTY:
            return EMPTY
        key = (what, least, most)
        if key not in self._repeats:
            self._repeats[key] = self._build_repeat(self.rule("item", what), least, most)
        return self._repeats[key]

    def _build_repeat(self, what: Term, least: int, most: int | None) -> Term:
        start = self._exactly(what, least)
        if most is None:
            return sequence(start, Repeat(what, 0, None))
        return sequence(start, self._up_to(what, most - least))

    def _exactly(self, what: Term, times: int) -> Term:
        if times <= DIRECT_REPEATS:
            return Repeat(what, times, times) if times > 1 else sequence(*[what] * times)
        block = math.isqrt(times)
        blocks = Repeat(self.rule("block", Repeat(what, block, block)), times // block, times // block)
        return sequence(blocks, self._exactly(what, times % block))

    def _up_to(self, what: Term, times: int) -> Term:
        """At most so many: blocks while another whole one fits, then less than a block."""
        if times <= DIRECT_REPEATS:
            return Repeat(what, 0, times) if times else EMPTY
        size = math.isqrt(times)
        block = self.rule("block", Repeat(what, size, size))
        rest = self.rule("rest", self._up_to(what, size - 1))
        term = self._up_to(what, times % size)
        for _ in range(times // size):
            term = self.rule("blocks", choice([sequence(block, term), rest]))
        return term

    def render(self, root: Term) -> str:
        """GBNF with what can't end left out. Raises InvalidSchema where nothing can."""
        self.define("root", root)
        ending = self._rules_that_end()
        if "root" not in ending:
            raise InvalidSchema("", "no value can satisfy it")
        kept = {name: _pruned(self._rules[name], ending) for name in ending}
        reached: dict[str, None] = {}
        waiting = ["root"]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached[name] = None
                waiting += reversed(list(_named(kept[name])))
        return "".join(f"{name} ::= {_write_options(kept[name])}\n" for name in reached)

    def _rules_that_end(self) -> set[str]:
        """Names of the rules from which some finite text can be made."""
        users: dict[str, set[str]] = {}
        for name, term in self._rules.items():
            for used in _named(term):
                users.setdefault(used, set()).add(name)
        ending: set[str] = set()
        waiting = list(self._rules)
        while waiting:
            name = waiting.pop()
            if name not in ending and _ends(self._rules[name], ending):
                ending.add(name)
                waiting += users.get(name, ())
        return ending


def _size(term: Term) -> int:
    match term:
        case Text(text):
            return len(text) + 1
        case Chars(ranges):
            return 2 * len(ranges)
        case Row(parts) | Choice(parts):
            return 1 + sum(map(_size, parts))
        case Repeat(what, least, most):
            return 1 + _size(what) * max(least, 1) + 2 * (most or 1)
    return 1


def _named(term: Term) -> Iterable[str]:
    match term:
        case Rule(name):
            yield name
        case Row(parts) | Choice(parts):
            for part in parts:
                yield from _named(part)
        case Repeat(what, _, _):
            yield from _named(what)


def _ends(term: Term, ending: set[str]) -> bool:
    match term:
        case Rule(name):
            return name in ending
        case Row(parts):
            return all(_ends(part, ending) for part in parts)
        case Choice(options):
            return any(_ends(option, ending) for option in options)
        case Repeat(what, least, _):
            return least == 0 or _ends(what, ending)
    return True


def _pruned(term: Term, ending: set[str]) -> Term:
    """The term without the options that can't end."""
    match term:
        case Row(parts):
            return sequence(*(_pruned(part, ending) for part in parts))
        case Choice(options):
            return choice(_pruned(option, ending) for option in options if _ends(option, ending))
        case Repeat(what, least, most):
            return Repeat(_pruned(what, ending), least, most) if _ends(what, ending) else EMPTY
    return term


def _write_options(term: Term) -> str:
    options: Sequence[Term] = term.options if isinstance(term, Choice) else (term,)
    return " | ".join(_write_sequence(option) for option in options)


def _write_sequence(term: Term) -> str:
    parts = term.parts if isinstance(term, Row) else (term,)
    # An empty alternative is written as an empty text: nothing at all is easy to misread.
    return " ".join(map(_write, parts)) or '""'


def _write(term: Term) -> str:
    match term:
        case Text(text):
            return '"' + "".join(map(_escaped, text)) + '"'
        case Chars(ranges):
            return "[" + "".join(_write_range(low, high) for low, high in ranges) + "]"
        case Rule(name):
            return name
        case Repeat(what, least, most):
            body = _write(what)
            if most is None:
                return body + ("*" if least == 0 else "+" if least == 1 else f"{{{least},}}")
            return body + (
                "?" if (least, most) == (0, 1) else f"{{{least}}}" if least == most else f"{{{least},{most}}}"
            )
    return f"({_write_options(term)})"


def _write_range(low: int, high: int) -> str:
    first = _escaped(chr(low), inside="[]-^")
    return first if low == high else f"{first}-{_escaped(chr(high), inside='[]-^')}"


def _escaped(char: str, inside: str = "") -> str:
    if char in '"\\':
        return "\\" + char
    if char in inside or not (char.isascii() and char.isprintable()):
        code = ord(char)
        return f"\\x{code:02X}" if code < 0x80 else f"\\U{code:08X}" if code > 0xFFFF else f"\\u{code:04X}"
    return char
