"""Modelfiles: text to commands and back, with Ollama's rules for quotes, lines and comments.

`Modelfile.parse(m.render()) == m` for every Modelfile that text can express. What the commands mean is decided
in `registry.recipe`.

Source of the rules: Ollama's Modelfile reference and the tests of its parser.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from registry.errors import ModelfileError

KEYWORDS: Final = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)
MESSAGE_ROLES: Final = ("system", "user", "assistant")
# Longer than any template with its licences, and short enough to be parsed at once.
MAX_MODELFILE_CHARACTERS: Final = 16 << 20

_SPACE: Final = " \t"
_NEWLINE: Final = "\r\n"
# What is trimmed around a value: the white space of Unicode.
_TRIMMED: Final = frozenset(" \t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000").union(
    map(chr, range(0x2000, 0x200B))
)
_LINE_END: Final = re.compile(r"[\r\n]")
_QUOTE: Final = '"'
_TRIPLE: Final = '"""'


@dataclass(frozen=True, slots=True)
class Command:
    """One instruction. `key` is a parameter's name or a message's role; `line` is where it starts, from 1."""

    keyword: str
    value: str
    key: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Modelfile:
    """The commands of a Modelfile, in order."""

    commands: tuple[Command, ...]

    @classmethod
    def parse(cls, source: str | bytes) -> Self:
        """Read a Modelfile; bytes may be UTF-8, or UTF-16 with a byte-order mark.

        Raises: ModelfileError: with the line; among others when no FROM is there.
        """
        text = _decode(source) if isinstance(source, bytes) else source.removeprefix("\ufeff")
        if len(text) > MAX_MODELFILE_CHARACTERS:
            raise ModelfileError(0, f"a Modelfile has at most {MAX_MODELFILE_CHARACTERS} characters")
        modelfile = cls(tuple(_Scanner(text).commands()))
        if not modelfile.values("from"):
            raise ModelfileError(0, "no FROM line")
        return modelfile

    def render(self) -> str:
        """The text. Raises: ModelfileError: a value that no quoting can express."""
        return "".join(f"{_render(command)}\n" for command in self.commands)

    def values(self, keyword: str) -> tuple[str, ...]:
        """The values of every command of this keyword."""
        return tuple(command.value for command in self.commands if command.keyword == keyword)


class _Scanner:
    """Walks over the text once, knowing the line it is on."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1

    def commands(self) -> Iterator[Command]:
        while self._skip_blank_and_comments():
            line = self._line
            keyword = self._word("command", _is_letter).lower()
            if keyword not in KEYWORDS:
                known = ", ".join(f'"{name}"' for name in KEYWORDS)
                raise ModelfileError(line, f"command must be one of {known}")
            key = ""
            if keyword == "parameter":
                self._skip(_SPACE)
                key = self._word("parameter name", _is_name_character)
            elif keyword == "message":
                self._skip(_SPACE)
                key = self._word("message role", _is_letter)
                if key not in MESSAGE_ROLES:
                    raise ModelfileError(line, 'message role must be one of "system", "user", or "assistant"')
            value = self._value(line)
            if keyword == "from" and not value:
                raise ModelfileError(line, "FROM needs a model or a file")
            yield Command(keyword, value, key, line)

    def _skip_blank_and_comments(self) -> bool:
        """Whether anything is left."""
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "#":
                while self._at < len(self._text) and self._text[self._at] not in _NEWLINE:
                    self._at += 1
            elif character in _SPACE or character in _NEWLINE:
                self._advance()
            else:
                return True
        return False

    def _word(self, what: str, belongs: Callable[[str], bool]) -> str:
        """Characters up to a space, which must follow on the same line."""
        start = self._at
        while self._at < len(self._text) and belongs(self._text[self._at]):
            self._at += 1
        word = self._text[start : self._at]
        if self._at == len(self._text) or self._text[self._at] in _NEWLINE:
            raise ModelfileError(self._line, f"unexpected end of line after {what} {word!r}: a value must follow")
        if not word or self._text[self._at] not in _SPACE:
            raise ModelfileError(self._line, f"unexpected character {self._text[self._at]!r} in {what} {word!r}")
        return word

    def _value(self, line: int) -> str:
        """Up to the first line end at which no quote is open; quotes may span lines.

        Each character is looked at a bounded number of times, however many lines a quote spans.
        """
        end = self._line_end()
        start, last = self._trim(self._at, end)
        if start == last:
            self._at = end
            return ""
        quote = next((mark for mark in (_TRIPLE, _QUOTE) if self._text.startswith(mark, start, last)), "")
        opened = start + len(quote)
        while not (last - len(quote) >= opened and self._text.endswith(quote, opened, last)):
            if end == len(self._text):
                shown = self._text[start : start + 40].strip()
                raise ModelfileError(line, f"the quote of {shown!r} is never closed")
            self._at = end
            self._advance()
            end = self._line_end()
            blank_from, line_last = self._trim(self._at, end)
            last = line_last if line_last > blank_from else opened  # a blank line closes nothing
        self._at = end
        return self._text[opened : last - len(quote)]

    def _line_end(self) -> int:
        match = _LINE_END.search(self._text, self._at)
        return match.start() if match else len(self._text)

    def _trim(self, start: int, end: int) -> tuple[int, int]:
        while start < end and self._text[start] in _TRIMMED:
            start += 1
        while end > start and self._text[end - 1] in _TRIMMED:
            end -= 1
        return start, end

    def _skip(self, characters: str) -> None:
        while self._at < len(self._text) and self._text[self._at] in characters:
            self._at += 1

    def _advance(self) -> None:
        character = self._text[self._at]
        self._at += 1
        after_return = character == "\n" and self._at > 1 and self._text[self._at - 2] == "\r"
        if character in _NEWLINE and not after_return:
            self._line += 1


def _render(command: Command) -> str:
    start = " ".join(filter(None, (command.keyword.upper(), command.key)))
    for quoted in (command.value, f'"{command.value}"', f'"""{command.value}"""'):
        candidate = f"{start} {quoted}"
        if _reads_back(candidate, command):
            return candidate
    raise ModelfileError(
        0, f'no quoting can express the value of {start}: a line of it ends with \'"""\', or it is empty'
    )


def _reads_back(text: str, command: Command) -> bool:
    try:
        return list(_Scanner(f"{text}\n").commands()) == [command]
    except ModelfileError:
        return False


def _decode(data: bytes) -> str:
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    return data.decode(errors="replace")


def _is_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()


def _is_name_character(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")
