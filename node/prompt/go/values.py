"""Values as a Go template sees them: truth, text and JSON by Go's rules.

Plain values are Python's own (None is nil, dict is map[string]any). `Struct` is a Go struct: a fixed set of fields,
so that a misspelt one is an error and not nil.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from node.prompt.budget import Budget

# Deeper values come only from hostile requests.
MAX_DEPTH = 200


@dataclass(frozen=True, slots=True)
class Struct:
    """A Go struct.

    Attributes:
        kind: its type's name, for messages.
        fields: by Go's names, in order.
        as_json: what it is in JSON, where it can be turned into it; that is also its text.
    """

    kind: str
    fields: dict[str, Any]
    as_json: dict[str, Any] | None = None


class JsonMap(dict[str, Any]):
    """A map whose text is its JSON."""


class JsonList(list[Any]):
    """A slice whose text is its JSON."""


class OrderedMap(dict[str, Any]):
    """A map that keeps its order in JSON; Go's own maps are sorted."""


class TypeNames(list[str]):
    """JSON schema's `type`: one name is just that name."""


class TooDeep(Exception):
    """A value is nested beyond reason."""


def truth(value: Any) -> bool:
    """Whether an `if` takes a value as true: not its type's zero or empty."""
    return True if isinstance(value, Struct) else bool(value)


def kind(value: Any) -> str:
    """A value's type, for messages."""
    if value is None:
        return "nil"
    if isinstance(value, Struct):
        return value.kind
    names = {bool: "bool", int: "int", float: "float64", str: "string", dict: "map", list: "slice"}
    return next((name for python, name in names.items() if isinstance(value, python)), type(value).__name__)


def text(value: Any, budget: Budget) -> str:
    """What an action prints for a value; it is paid for."""
    shown = "<no value>" if value is None else _format(value, budget, 0)
    budget.spend(len(shown))
    return shown


def _format(value: Any, budget: Budget, depth: int) -> str:
    """Go's %v."""
    budget.spend(1)
    if depth > MAX_DEPTH:
        raise TooDeep
    match value:
        case str():
            return value
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return format_float(value)
        case TypeNames() if len(value) < 2:
            return "".join(value)
        case JsonMap() | JsonList():
            return to_json(value, budget)
        case Struct(_, fields, as_json):
            if as_json is not None:
                return to_json(value, budget)
            return "{" + " ".join(_format(part, budget, depth + 1) for part in fields.values()) + "}"
        case dict():
            parts = (f"{key}:{_format(value[key], budget, depth + 1)}" for key in sorted(value))
            return "map[" + " ".join(parts) + "]"
        case list():
            return "[" + " ".join(_format(part, budget, depth + 1) for part in value) + "]"
    return str(value)


def format_float(value: float) -> str:
    """Go's %v: the shortest digits that read as the same number, with an exponent below 1e-4 and from 1e6 on."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return _plain(value)
    return _shortest_exponent(value)


def _plain(value: float) -> str:
    """Without an exponent."""
    return format(Decimal(repr(value)), "f").removesuffix(".0")


def _shortest_exponent(value: float) -> str:
    return next(short for digits in range(17) if float(short := f"{value:.{digits}e}") == value)


def to_json(value: Any, budget: Budget) -> str:
    """JSON as Go's json.Marshal writes it: compact, maps sorted, and <, >, & escaped."""
    shown = "".join(_json(value, budget, 0))
    budget.spend(len(shown))
    return shown


_HTML = str.maketrans({"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"})


def _json(value: Any, budget: Budget, depth: int) -> Iterator[str]:
    budget.spend(1)
    if depth > MAX_DEPTH:
        raise TooDeep
    match value:
        case Struct(_, fields, as_json):
            yield from _json(OrderedMap(fields if as_json is None else as_json), budget, depth)
        case TypeNames() if len(value) == 1:
            yield from _json(value[0], budget, depth)
        case dict():
            keys = value if isinstance(value, OrderedMap) else sorted(value)
            yield "{"
            for number, key in enumerate(keys):
                yield ("," if number else "") + _json_string(key) + ":"
                yield from _json(value[key], budget, depth + 1)
            yield "}"
        case list():
            yield "["
            for number, part in enumerate(value):
                yield "," if number else ""
                yield from _json(part, budget, depth + 1)
            yield "]"
        case str():
            yield _json_string(value)
        case float():
            yield _json_float(value)
        case _:
            yield json.dumps(value)


def _json_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f").translate(_HTML)


def _json_float(value: float) -> str:
    if not math.isfinite(value):
        return "null"
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        return _plain(value)
    return _shortest_exponent(value).replace("e-0", "e-")


def look_up(value: Any, name: str, fail: Callable[[str], Exception]) -> Any:
    """`.name` of a value: nil where a map has no such key, an error where a struct has no such field."""
    if isinstance(value, Struct):
        if name not in value.fields:
            raise fail(f"can't evaluate field {name} in type {value.kind}")
        return value.fields[name]
    if isinstance(value, dict):
        return value.get(name)
    if value is None:
        raise fail(f"nil pointer evaluating interface {{}}.{name}")
    raise fail(f"can't evaluate field {name} in type {kind(value)}")
