"""Cut a Go text/template into text and the tokens of its actions, trim markers applied."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from node.prompt.errors import TemplateError

Kind = Literal["text", "open", "close", "space", "word", "field", "variable", "string", "number", "mark", "end"]

LEFT, RIGHT = "{{", "}}"
SPACE = " \t\r\n"
COMMENT = re.compile(r"\{\{(?:-[ \t\r\n]+)?/\*")
COMMENT_END = re.compile(r"\*/(?:[ \t\r\n]+-)?\}\}")
TOKEN = re.compile(
    r"""(?P<close>[ \t\r\n]+-\}\}|\}\})
    |(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`|'(?:[^'\\\n]|\\.)+')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:\d[\d_]*)?\.?\d[\d_]*\.?(?:[eE][+-]?\d+)?))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<variable>\$\w*)
    |(?P<word>[^\W\d]\w*)
    |(?P<mark>:=|[=|,().])""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the template; `value` is what a string or number literal means."""

    kind: Kind
    text: str
    line: int
    value: str | int | float = ""


class Fault(TemplateError):
    """A template is malformed, or fails, at a line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"template: line {line}: {message}")


def tokens(source: str) -> Iterator[Token]:
    """The tokens of a template. Raises Fault where there is none."""
    at, line = 0, 1
    trim_next = False
    while True:
        start = source.find(LEFT, at)
        text = source[at:] if start < 0 else source[at:start]
        lines = text.count("\n")
        trims = start >= 0 and source.startswith("-", start + 2) and source[start + 3 : start + 4] in tuple(SPACE)
        if trim_next:
            text = text.lstrip(SPACE)
        if trims:
            text = text.rstrip(SPACE)
        if text:
            yield Token("text", text, line)
        line += lines
        if start < 0:
            yield Token("end", "", line)
            return
        if comment := COMMENT.match(source, start):
            end = COMMENT_END.search(source, comment.end())
            if end is None:
                raise Fault(line, "unclosed comment")
            line += source.count("\n", start, end.end())
            at, trim_next = end.end(), "-" in end[0]
            continue
        yield Token("open", LEFT, line)
        at = start + (3 if trims else 2)
        while True:
            match = TOKEN.match(source, at)
            if match is None:
                raise Fault(line, _complaint(source, at))
            kind, word, at = match.lastgroup, match[0], match.end()
            yield _token(kind, word, line)
            line += word.count("\n")
            if kind == "close":
                trim_next = word != RIGHT
                break


def _complaint(source: str, at: int) -> str:
    if at >= len(source):
        return "unclosed action"
    return "unterminated string" if source[at] in "\"'`" else f"unexpected {source[at]!r} in an action"


def _token(kind: str | None, word: str, line: int) -> Token:
    try:
        if kind == "string":
            return Token("string", word, line, _string(word))
        if kind == "number":
            return Token("number", word, line, _number(word))
    except ValueError:
        raise Fault(line, f"malformed literal {word[:40]}") from None
    return Token(kind, word, line)  # type: ignore[arg-type]


def _string(word: str) -> str | int:
    """A quoted, raw or character literal; the last is a number, as in Go."""
    if word[0] == "`":
        return word[1:-1].replace("\r", "")
    inner = word[1:-1]
    if word[0] == "'":
        # Between apostrophes a quotation mark stands for itself.
        inner = inner.replace(r"\'", "'").replace('"', r"\"")
    text = _unescape(inner)
    if word[0] == "'":
        return ord(text) if len(text) == 1 else _fail()
    return text


def _fail() -> int:
    raise ValueError


ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text

    def one(match: re.Match[str]) -> str:
        if match[4]:
            return chr(int(match[4], 8))
        if match[5]:
            return SIMPLE[match[5]] if match[5] in SIMPLE else str(_fail())
        return chr(int(match[1] or match[2] or match[3], 16))

    return ESCAPE.sub(one, text)


def _number(word: str) -> int | float:
    digits = word.replace("_", "")
    try:
        return int(digits, 0) if not digits.lstrip("+-").lstrip("0").isdigit() else int(digits)
    except ValueError:
        value = float(digits)
        return int(value) if json.dumps(value).endswith(".0") and "e" in digits.lower() else value
