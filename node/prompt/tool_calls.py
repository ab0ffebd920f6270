"""Find the tool calls in what a model writes, in the ways that open models write them.

A call begins after an opening tag (`<tool_call>`, `[TOOL_CALLS]`, ...), or, for models that have none, with a
JSON object or list at the very start of the answer. It is then one of

    {"name": "f", "arguments": {...}}        also "parameters", arguments as JSON text, {"function": {...}}
    [{...}, {...}]                           several of them
    f{...}, f[ARGS]{...}, ...f...{...}       a tool's name and then its arguments
    <function=f><parameter=p>value</parameter></function>

Only tools that were offered are called, as in Ollama: whatever turns out not to be such a call is given back as
text, unchanged. Nothing here looks at the clock or at chance, so the ids of a resumed reply are the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from node.jobs import ToolCall
from node.prompt.thinking import overlap

# What stands between calls or after them, beside white space and closing tags.
SEPARATORS = ",;"
PARAMETER = re.compile(r"<parameter=([^>\n]+)>(.*?)</parameter>", re.DOTALL)
JSON_MARK = re.compile(r'\\.|["{}\[\]]', re.DOTALL)
JSON_TYPES_OF_TEXT = ("string", None)


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How a model marks a call: `opening` tags, and `closing` where it has one.

    `bare`: a JSON value at the very start of the answer counts as a call too.
    """

    opening: tuple[str, ...] = ()
    closing: str = ""
    bare: bool = False


# Opening tag -> closing tag, in the order they are looked for in a template: longer and rarer ones first.
KNOWN_TAGS = {
    "<｜tool▁calls▁begin｜>": "<｜tool▁calls▁end｜>",
    "<|tool▁calls▁begin|>": "<|tool▁calls▁end|>",
    "<|tool_calls_section_begin|>": "<|tool_calls_section_end|>",
    "<|tool_call_start|>": "<|tool_call_end|>",
    "<|tool_call|>": "<|/tool_call|>",
    "<tool_call>": "</tool_call>",
    "<function_call>": "</function_call>",
    "<start_function_call>": "<end_function_call>",
    "<|action_start|><|plugin|>": "<|action_end|>",
    "[TOOL_CALLS]": "",
    "<function=": "</function>",
    "functools": "",
}


def syntax_for_tag(tag: str) -> CallSyntax:
    """The syntax whose opening tag is `tag`; "{" and "[" mean bare JSON."""
    # A bracket at the end of a tag is the beginning of the list.
    tag = tag.rstrip("{[ \n")
    if not tag:
        return CallSyntax(opening=("<|python_tag|>",), bare=True)
    return CallSyntax(opening=(tag,), closing=KNOWN_TAGS.get(tag, _counterpart(tag)))


def _counterpart(tag: str) -> str:
    """What closes a tag that we do not know; "" where it does not look like a tag."""
    if tag.endswith("```json"):
        return "```"
    if "begin" in tag:
        return tag.replace("begin", "end")
    return re.sub(r"^<(\w+)>$", r"</\1>", tag) if tag.startswith("<") and tag[1:-1].isidentifier() else ""


def syntax_in_template(template: str) -> CallSyntax:
    """The syntax that a Jinja template's text shows; bare JSON where it shows none that we know."""
    return syntax_for_tag(next((tag for tag in KNOWN_TAGS if tag in template), "{"))


@dataclass(frozen=True, slots=True)
class Section:
    """How the text after an opening tag reads so far: `end` is where the call ends."""

    verdict: Literal["wait", "text", "calls"]
    end: int = 0
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()


WAIT = Section("wait")


class ToolCallScanner:
    """Incremental: `feed` returns (text, calls) as soon as each is certain.

    Args:
        tools: OpenAI-style definitions of the tools that were offered.
        salt: what makes the ids of this reply differ from those of another; the same on a resumed one.
    """

    def __init__(self, syntax: CallSyntax, tools: Sequence[dict[str, Any]], salt: bytes) -> None:
        self._syntax = syntax
        self._parameters = {name: properties for name, properties in map(_signature, tools) if name}
        self._salt = salt
        self._held = ""
        self._state: Literal["start", "text", "call", "after"] = "start"
        self._opening = ""
        self._scan = JsonScan()
        self._in_section = False
        self._count = 0

    def feed(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """Take more output; returns what is certain by now."""
        self._held += text
        return self._run(final=False)

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """The output has ended: an unfinished call is given back as text."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> tuple[str, tuple[ToolCall, ...]]:
        text, calls = "", list[ToolCall]()
        while True:
            before = (self._state, len(self._held))
            if self._state in ("start", "text"):
                text += self._read_text(final=final)
            elif self._state == "call":
                more, found = self._read_call(final=final)
                text += more
                calls += found
            else:
                self._read_glue(final=final)
            if (self._state, len(self._held)) == before:
                return text, tuple(calls)

    def _read_text(self, *, final: bool) -> str:
        """Text up to the next opening tag; moves on to "call" behind it."""
        blank = len(self._held) - len(self._held.lstrip()) if self._state == "start" else 0
        if self._state == "start" and self._syntax.bare and self._held[blank : blank + 1] in ("{", "["):
            self._enter_call(self._held[:blank], blank)
            return ""
        hits = [(at, tag) for tag in self._syntax.opening if (at := self._held.find(tag)) >= 0]
        if hits:
            at, tag = min(hits)
            text = self._held[:at] if at > blank else ""
            self._enter_call(tag if text else self._held[:at] + tag, at + len(tag))
            return text
        waiting = 0 if final else max((overlap(self._held, tag) for tag in self._syntax.opening), default=0)
        cut = len(self._held) - waiting
        if self._state == "start" and cut <= blank and not final:
            return ""
        text, self._held = self._held[:cut], self._held[cut:]
        self._state = "text"
        return text

    def _enter_call(self, opening: str, at: int) -> None:
        self._held = self._held[at:]
        self._state, self._opening, self._scan = "call", opening, JsonScan()
        self._in_section = True

    def _read_call(self, *, final: bool) -> tuple[str, list[ToolCall]]:
        section = self._section(self._held, final=final)
        if section.verdict == "wait" and not final:
            return "", []
        if section.verdict == "calls":
            self._held = self._held[section.end :]
            self._state = "after"
            return "", [self._call(name, arguments) for name, arguments in section.calls]
        # Not a call: the tag was text, and so is what follows it, up to a next tag.
        end = section.end if section.verdict == "text" else len(self._held)
        text, self._held = self._opening + self._held[:end], self._held[end:]
        self._state = "text"
        return text, []

    def _read_glue(self, *, final: bool) -> None:
        """Drop what only separates calls; move on to the next call or back to text."""
        closing = self._syntax.closing if self._in_section else ""
        more_expected = self._in_section or not self._syntax.closing
        rest = self._held.lstrip()
        if more_expected:
            rest = rest.lstrip(SEPARATORS + " \t\r\n")
        if closing and rest.startswith(closing):
            self._held, self._in_section = rest[len(closing) :], False
            return
        unclear = not rest or any(tag.startswith(rest) for tag in (closing, *self._syntax.opening) if tag)
        if unclear and not final:
            return
        tagged = any(rest.startswith(tag) for tag in self._syntax.opening)
        if more_expected and rest[:1] in ("{", "[") and not tagged:
            self._held = rest
            self._enter_call("", 0)
        else:
            self._held, self._state = rest, "text"

    def _call(self, name: str, arguments: dict[str, Any]) -> ToolCall:
        seed = json.dumps([self._count, name, arguments], sort_keys=True).encode() + self._salt
        self._count += 1
        return ToolCall(name=name, arguments=arguments, id=f"call_{hashlib.sha256(seed).hexdigest()[:12]}")

    def _section(self, body: str, *, final: bool) -> Section:
        """Read the text after an opening tag."""
        start = len(body) - len(body.lstrip())
        if start == len(body):
            return WAIT
        if body[start] in "{[":
            return self._json_section(body, start)
        closing = self._syntax.closing
        if closing:
            end = body.find(closing)
            if end < 0 and not final:
                return WAIT
            inside = body if end < 0 else body[:end]
            calls = self._calls_in_markup(self._opening + inside) or self._named_calls(inside)
            return Section("calls" if calls else "text", len(inside) if calls else len(inside + closing), tuple(calls))
        return self._open_section(body)

    def _json_section(self, body: str, start: int) -> Section:
        end = self._scan.end(body, start)
        if end is None:
            return WAIT
        try:
            calls = self._calls_in(json.loads(body[start:end]), lenient=not self._syntax.bare)
        except (ValueError, RecursionError):
            calls = []
        if calls:
            return Section("calls", end, tuple(calls))
        closing = self._syntax.closing
        if not closing:
            return Section("text", end)
        close = body.find(closing, end)
        return WAIT if close < 0 else Section("text", close + len(closing))

    def _open_section(self, body: str) -> Section:
        """A section without a closing tag: it ends with the first call's arguments."""
        found = self._first_name(body)
        if not found:
            return WAIT
        brace = body.find("{", found[1])
        end = JsonScan().end(body, brace) if brace >= 0 else None
        if end is None:
            return WAIT
        calls = self._named_calls(body[:end])
        return Section("calls" if calls else "text", end, tuple(calls))

    def _named_calls(self, body: str) -> list[tuple[str, dict[str, Any]]]:
        """Every `name ... {arguments}` in a section."""
        calls = []
        at = 0
        while found := self._first_name(body, at):
            name, at = found
            brace = body.find("{", at)
            end = JsonScan().end(body, brace) if brace >= 0 else None
            if end is None:
                break
            try:
                arguments = json.loads(body[brace:end])
            except (ValueError, RecursionError):
                break
            calls.append((name, arguments))
            at = end
        return calls

    def _first_name(self, body: str, at: int = 0) -> tuple[str, int] | None:
        """The first offered tool that is named at or after `at` (the longest, where two begin there)."""
        hits = [(body.find(name, at), -len(name), name) for name in self._parameters]
        best = min((hit for hit in hits if hit[0] >= 0), default=None)
        return (best[2], best[0] + len(best[2])) if best else None

    def _calls_in_markup(self, body: str) -> list[tuple[str, dict[str, Any]]]:
        """`<function=name>` with `<parameter=...>` elements; text unless the tool wants another type."""
        calls = []
        for part in body.split("<function=")[1:]:
            name, _, rest = part.partition(">")
            properties = self._parameters.get(name.strip())
            if properties is None or (not PARAMETER.search(rest) and "{" in rest):
                return []
            arguments = {key: _typed(value, properties.get(key)) for key, value in PARAMETER.findall(rest)}
            calls.append((name.strip(), arguments))
        return calls

    def _calls_in(self, value: Any, *, lenient: bool) -> list[tuple[str, dict[str, Any]]]:
        """The calls that a JSON value describes; none unless all of it does."""
        if isinstance(value, list):
            parts = [self._calls_in(item, lenient=lenient) for item in value]
            return [call for part in parts for call in part] if parts and all(parts) else []
        if not isinstance(value, dict):
            return []
        if isinstance(inner := value.get("function"), dict):
            value = inner
        name = value.get("name", value.get("function"))
        if isinstance(name, str) and name in self._parameters:
            absent: Any = {} if lenient else None
            given: Any = value.get("arguments", value.get("parameters", absent))
            if isinstance(given, str):
                given = json.loads(given)
            return [(name, given)] if isinstance(given, dict) else []
        if len(value) == 1:
            [(name, given)] = value.items()
            if name in self._parameters and isinstance(given, dict):
                return [(name, given)]
        return []


class JsonScan:
    """Finds the end of a JSON object or list in a text that grows; reads every character once."""

    def __init__(self) -> None:
        self._at = -1
        self._depth = 0
        self._in_string = False

    def end(self, text: str, start: int) -> int | None:
        """Where the value that begins at `start` ends; None while it is incomplete. Call with the same start."""
        at = max(self._at, start)
        for match in JSON_MARK.finditer(text, at):
            mark, at = match[0], match.end()
            if mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string and len(mark) == 1:
                self._depth += 1 if mark in "{[" else -1
                if self._depth == 0:
                    return at
        # A backslash at the end belongs to a character that is still to come.
        self._at = max(at, len(text) - text.endswith("\\"))
        return None


def _signature(tool: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A tool's name and its parameters' schemas, from a definition that may be of any shape."""
    function = tool.get("function")
    function = function if isinstance(function, dict) else tool
    name = function.get("name")
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return (name if isinstance(name, str) else ""), (properties if isinstance(properties, dict) else {})


def _typed(text: str, schema: Any) -> Any:
    """A parameter's text as the type its schema wants, where it reads as such."""
    text = text.removeprefix("\n").removesuffix("\n")
    if not isinstance(schema, dict) or schema.get("type") in JSON_TYPES_OF_TEXT:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
