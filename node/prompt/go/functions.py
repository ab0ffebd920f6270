"""The functions a Go template may call: text/template's own, and those that Ollama adds."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import quote_plus

from node.prompt.budget import Budget
from node.prompt.go.values import Struct, format_float, kind, text, to_json, truth

Function: TypeAlias = Callable[..., Any]

MAX_WIDTH = 1000
VERB = re.compile(r"%([-+# 0]*)(\d+)?(?:\.(\d+))?(.)", re.DOTALL)
TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}
# `and` and `or` are here for the parser; the evaluator handles them, as they do not evaluate every argument.
LAZY = frozenset(["and", "or"])


class Misuse(Exception):
    """A function was given what it can't take; the evaluator adds the line."""


def functions(now: datetime, budget: Budget) -> dict[str, Function]:
    """Every function by name, telling this date and paying from this budget."""
    return {
        "not": lambda value: not truth(value),
        "len": _length,
        "index": _index,
        "slice": _slice,
        "eq": _equal_to_any,
        "ne": lambda left, right: not _equal(left, right),
        "lt": lambda left, right: _less(left, right),
        "le": lambda left, right: _less(left, right) or _equal(left, right),
        "gt": lambda left, right: _less(right, left),
        "ge": lambda left, right: _less(right, left) or _equal(left, right),
        "print": lambda *args: _print(args, budget),
        "println": lambda *args: " ".join(text(arg, budget) for arg in args) + "\n",
        "printf": lambda form, *args: _printf(form, args, budget),
        "html": lambda *args: _html(_print(args, budget)),
        "urlquery": lambda *args: _urlquery(_print(args, budget)),
        "json": lambda value: to_json(value, budget),
        "toJson": lambda value: to_json(value, budget),
        "currentDate": lambda *_: now.strftime("%Y-%m-%d"),
        "yesterdayDate": lambda *_: (now - timedelta(days=1)).strftime("%Y-%m-%d"),
        "toTypeScriptType": _typescript,
    }


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | dict):
        return len(value)
    raise Misuse(f"len of type {kind(value)}")


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, list | str):
            if isinstance(key, bool) or not isinstance(key, int):
                raise Misuse(f"cannot index {kind(value)} with type {kind(key)}")
            items = value.encode() if isinstance(value, str) else value
            if not 0 <= key < len(items):
                raise Misuse(f"index out of range: {key}")
            value = items[key]
        elif isinstance(value, dict):
            if not isinstance(key, str):
                raise Misuse(f"cannot index map with type {kind(key)}")
            value = value.get(key)
        else:
            raise Misuse("index of untyped nil" if value is None else f"can't index item of type {kind(value)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    """Strings are cut in bytes, as in Go."""
    if not isinstance(value, list | str):
        raise Misuse(f"can't slice item of type {kind(value)}")
    if len(bounds) > (2 if isinstance(value, str) else 3):
        raise Misuse(f"too many slice indexes: {len(bounds)}")
    items = value.encode() if isinstance(value, str) else value
    low, high = (*bounds, *((0, len(items))[len(bounds) :]))[:2]
    for bound in (low, high):
        if isinstance(bound, bool) or not isinstance(bound, int):
            raise Misuse(f"cannot index slice/array with type {kind(bound)}")
        if not 0 <= bound <= len(items):
            raise Misuse(f"index out of range: {bound}")
    if low > high:
        raise Misuse(f"invalid slice index: {low} > {high}")
    return items[low:high].decode(errors="replace") if isinstance(items, bytes) else items[low:high]


def _equal_to_any(left: Any, *rights: Any) -> bool:
    if not rights:
        raise Misuse("missing argument for comparison")
    return any(_equal(left, right) for right in rights)


def _equal(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    for value in (left, right):
        if not isinstance(value, str | bool | int | float):
            raise Misuse("non-comparable types for comparison")
    if kind(left) != kind(right):
        # A number that came as JSON has no Go type of its own here; only text against number is a mistake.
        if {kind(left), kind(right)} == {"int", "float64"}:
            return bool(left == right)
        raise Misuse("incompatible types for comparison")
    return bool(left == right)


def _less(left: Any, right: Any) -> bool:
    for value in (left, right):
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise Misuse("invalid type for comparison")
    if isinstance(left, str) != isinstance(right, str):
        raise Misuse("incompatible types for comparison")
    return bool(left < right)


def _print(args: tuple[Any, ...], budget: Budget) -> str:
    """Go's Sprint: a space between operands where neither is a string."""
    shown = ""
    for number, arg in enumerate(args):
        if number and not isinstance(arg, str) and not isinstance(args[number - 1], str):
            shown += " "
        shown += "<nil>" if arg is None else text(arg, budget)
    return shown


def _printf(form: Any, args: tuple[Any, ...], budget: Budget) -> str:
    if not isinstance(form, str):
        raise Misuse(f"wrong type for value; expected string; got {kind(form)}")
    rest = list(args)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        shown = _verb(verb, rest.pop(0), flags, int(precision) if precision else None, budget)
        size = int(width or 0)
        if size > MAX_WIDTH:
            raise Misuse("a width of printf is excessive")
        budget.spend(max(size, len(shown)))
        if "-" in flags:
            return shown.ljust(size)
        return shown.zfill(size) if "0" in flags and verb in "dfxX" else shown.rjust(size)

    shown = VERB.sub(one, form)
    if rest:
        extra = ", ".join(f"{kind(arg)}={text(arg, budget)}" for arg in rest)
        shown += f"%!(EXTRA {extra})"
    return shown


def _verb(verb: str, value: Any, flags: str, precision: int | None, budget: Budget) -> str:
    """One value by one verb, as Go's fmt formats it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if precision is not None and precision > MAX_WIDTH:
        raise Misuse("a precision of printf is excessive")
    if verb == "v" or (verb == "s" and not isinstance(value, int | float | None)):
        shown = "<nil>" if value is None else text(value, budget)
        return shown if precision is None or verb == "v" else shown[:precision]
    if value is None:
        return f"%!{verb}(<nil>)"
    if verb == "q" and isinstance(value, str):
        return _quoted(value)
    if verb == "t" and isinstance(value, bool):
        return "true" if value else "false"
    if verb == "d" and isinstance(value, int) and number:
        return f"{value:+d}" if "+" in flags else str(value)
    if verb in "xX" and isinstance(value, int) and number:
        return f"{value:{verb}}"
    if verb in "xX" and isinstance(value, str):
        return value.encode().hex() if verb == "x" else value.encode().hex().upper()
    if verb == "c" and isinstance(value, int) and number and 0 <= value < 0x110000:
        return chr(value)
    if verb in "feEgG" and number:
        return format_float(float(value)) if verb == "g" and precision is None else f"{value:.{precision or 6}{verb}}"
    if verb == "T":
        return kind(value)
    return f"%!{verb}({kind(value)}={text(value, budget)})"


def _quoted(value: str) -> str:
    escapes = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\t": r"\t", "\r": r"\r"}
    return '"' + "".join(escapes.get(char, char) for char in value) + '"'


def _html(value: str) -> str:
    for char, entity in (("&", "&amp;"), ("'", "&#39;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;")):
        value = value.replace(char, entity)
    return value


def _urlquery(value: str) -> str:
    return quote_plus(value)


def _typescript(value: Any) -> str:
    """A tool's parameter as a TypeScript type."""
    if not isinstance(value, Struct) or value.kind != "api.ToolProperty":
        return "any"
    if alternatives := value.fields["AnyOf"]:
        return " | ".join(map(_typescript, alternatives))
    return " | ".join(TYPESCRIPT.get(name, "any") for name in value.fields["Type"]) or "any"


NAMES = frozenset([*functions(datetime.min, Budget()), *LAZY])
