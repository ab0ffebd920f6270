"""Read GBNF as llama.cpp does and make random texts of the grammar: an independent check of what we write."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

TOKEN = re.compile(
    r'\s*("(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{\d+(?:,\d*)?\}|::=|[A-Za-z0-9-]+|[()|*+?])', re.DOTALL
)
ESCAPE = re.compile(r"\\(?:x(..)|u(....)|U(.{8})|(.))|(.)", re.DOTALL)
SIMPLE = {"n": "\n", "r": "\r", "t": "\t"}
FOREVER = 10**9


@dataclass
class Node:
    kind: str  # text | chars | rule | row | choice | repeat
    value: Any
    least: int = 0
    most: int = 0


def unescape(text: str) -> list[str]:
    out = []
    for x, u, big, simple, plain in ESCAPE.findall(text):
        code = x or u or big
        out.append(chr(int(code, 16)) if code else SIMPLE.get(simple, simple) if simple else plain)
    return out


def char_ranges(body: str) -> list[tuple[str, str]]:
    marks = [(m[0], bool(m[0].startswith("\\"))) for m in ESCAPE.finditer(body)]
    chars = [(unescape(raw)[0], escaped) for raw, escaped in marks]
    ranges, at = [], 0
    while at < len(chars):
        if at + 2 < len(chars) and chars[at + 1] == ("-", False):
            ranges.append((chars[at][0], chars[at + 2][0]))
            at += 3
        else:
            ranges.append((chars[at][0], chars[at][0]))
            at += 1
    return ranges


class Sampler:
    """Random texts of a grammar."""

    def __init__(self, gbnf: str) -> None:
        self.rules: dict[str, Node] = {}
        for line in gbnf.splitlines():
            if line.strip():
                name, _, body = line.partition(" ::= ")
                self.tokens = [m[1] for m in TOKEN.finditer(body)]
                assert "".join(self.tokens).replace(" ", "") or body.strip() == ""
                self.at = 0
                self.rules[name] = self.choice()
                assert self.at == len(self.tokens), (line, self.tokens[self.at :])
        self.heights: dict[str, int] = dict.fromkeys(self.rules, FOREVER)
        changed = True
        while changed:
            changed = False
            for name, node in self.rules.items():
                height = self.height(node) + 1
                if height < self.heights[name]:
                    self.heights[name], changed = height, True

    def choice(self) -> Node:
        options = [self.row()]
        while self.at < len(self.tokens) and self.tokens[self.at] == "|":
            self.at += 1
            options.append(self.row())
        return options[0] if len(options) == 1 else Node("choice", options)

    def row(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.tokens) and self.tokens[self.at] not in ("|", ")"):
            token = self.tokens[self.at]
            self.at += 1
            if token == "(":
                parts.append(self.choice())
                assert self.tokens[self.at] == ")"
                self.at += 1
            elif token[0] == '"':
                parts.append(Node("text", "".join(unescape(token[1:-1]))))
            elif token[0] == "[":
                assert token[1] != "^"
                parts.append(Node("chars", char_ranges(token[1:-1])))
            elif token[0] in "*+?{":
                low, _, high = token.strip("{}").partition(",")
                least, most = {"*": (0, FOREVER), "+": (1, FOREVER), "?": (0, 1)}.get(
                    token, (int(low or 0) if token[0] == "{" else 0, int(high) if high else FOREVER)
                )
                if token[0] == "{" and "," not in token:
                    most = least
                # Beyond this, llama.cpp reads another grammar than the one that is written, or none.
                assert least <= 2000
                assert most <= 2000 or most == FOREVER
                parts.append(Node("repeat", parts.pop(), least, most))
            else:
                parts.append(Node("rule", token))
        return parts[0] if len(parts) == 1 else Node("row", parts)

    def height(self, node: Node) -> int:
        match node.kind:
            case "rule":
                return self.heights[node.value]
            case "row":
                return max(map(self.height, node.value), default=0)
            case "choice":
                return min(map(self.height, node.value))
            case "repeat":
                return self.height(node.value) if node.least else 0
        return 0

    def sample(self, rng: random.Random, *, depth: int = 25) -> str:
        out: list[str] = []
        self._write(self.rules["root"], rng, depth, out)
        return "".join(out)

    def _write(self, node: Node, rng: random.Random, depth: int, out: list[str]) -> None:
        match node.kind:
            case "text":
                out.append(node.value)
            case "chars":
                low, high = rng.choice(node.value)
                # Mostly the ends of a range: that is where mistakes are.
                pick = rng.choice([ord(low), ord(high), rng.randint(ord(low), ord(high))])
                out.append(chr(pick))
            case "rule":
                self._write(self.rules[node.value], rng, depth - 1, out)
            case "row":
                for part in node.value:
                    self._write(part, rng, depth, out)
            case "choice":
                options = node.value
                if depth <= 0:
                    best = min(map(self.height, options))
                    options = [option for option in options if self.height(option) == best]
                self._write(rng.choice(options), rng, depth, out)
            case "repeat":
                most = min(node.most, node.least + 3)
                times = node.least if depth <= 0 else rng.choice([node.least, most, rng.randint(node.least, most)])
                if node.most <= 64 and depth > 0 and rng.random() < 0.3:
                    times = node.most
                for _ in range(times):
                    self._write(node.value, rng, depth - 1, out)
