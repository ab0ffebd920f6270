"""The keywords of one schema object, each read and checked by itself; what they mean together is `constraints`'."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

from node.grammar.errors import InvalidSchema

Schema: TypeAlias = Any  # a JSON value that should be an object or a boolean

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

# Keywords that restrict, and which no grammar here can keep, with the values that make them harmless.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "not": (False,),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "contains": (),
    "uniqueItems": (False,),
    "maxProperties": (),
    "$dynamicRef": (),
    "$recursiveRef": (),
}
COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
OBJECT_KEYS = ("properties", "required", "additionalProperties", "patternProperties", "propertyNames")
ARRAY_KEYS = ("items", "prefixItems", "additionalItems", "minItems", "maxItems")
STRING_KEYS = ("minLength", "maxLength", "pattern", "format")
NUMBER_KEYS = (*BOUNDS, "multipleOf")


def check_supported(schema: dict[str, Any], path: str) -> None:
    """Refuse every keyword that restricts and can't be kept. Raises InvalidSchema."""
    for keyword, harmless in UNSUPPORTED.items():
        if keyword in schema and schema[keyword] not in harmless:
            raise InvalidSchema(f"{path}/{keyword}", f"{keyword!r} can't be guaranteed")
    if "if" in schema and ("then" in schema or "else" in schema):
        raise InvalidSchema(f"{path}/if", "'if' can't be guaranteed")
    required = schema.get("required")
    least = whole_number(schema.get("minProperties", 0), f"{path}/minProperties")
    if least > (len(set(map(str, required))) if isinstance(required, list) else 0):
        raise InvalidSchema(f"{path}/minProperties", "'minProperties' can't be guaranteed beyond 'required'")


def types_of(schema: dict[str, Any], path: str) -> frozenset[str] | None:
    """`type`, as a set; None: any."""
    if "type" not in schema:
        return None
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for name in names:
        if name not in TYPES:
            raise InvalidSchema(f"{path}/type", f"unknown type {shown(name)}")
    return frozenset(names)


def values_of(schema: dict[str, Any], path: str) -> tuple[Any, ...] | None:
    """`enum` and `const`: the values that are left; None: any."""
    values: tuple[Any, ...] | None = None
    if "enum" in schema:
        values = tuple(checked(schema, "enum", list, path) or ())
    if "const" in schema:
        const = schema["const"]
        values = (const,) if values is None or key_of(const) in map(key_of, values) else ()
    return values


def bounds_of(schema: dict[str, Any], path: str) -> Iterator[tuple[str, int | float]]:
    """The limits of numbers that are given, by keyword."""
    for name in BOUNDS:
        if name not in schema:
            continue
        value = schema[name]
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value != value
            or abs(value) == float("inf")
        ):
            raise InvalidSchema(f"{path}/{name}", f"must be a number, not {shown(value)}")
        yield name, value


def check_multiple(schema: dict[str, Any], path: str) -> None:
    """Refuse `multipleOf`, but for one that says what the type says already."""
    if "multipleOf" in schema and not (schema["multipleOf"] == 1 and schema.get("type") == "integer"):
        raise InvalidSchema(f"{path}/multipleOf", "'multipleOf' can't be guaranteed")


def whole_number(value: Any, path: str) -> int:
    """A count: a whole number, 0 or more, however JSON writes it."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value < 0
        or value != int(value)
    ):
        raise InvalidSchema(path, f"must be a whole number, not {shown(value)}")
    return int(value)


def checked(schema: dict[str, Any], keyword: str, kind: type[Any], path: str) -> Any:
    """The keyword's value, of the kind that it must have; None: not there."""
    value = schema.get(keyword)
    if keyword in schema and not isinstance(value, kind):
        names: dict[Any, str] = {dict: "an object", list: "a list", str: "a text"}
        raise InvalidSchema(f"{path}/{keyword}", f"must be {names[kind]}, not {shown(value)}")
    return value


def schemas_of(schema: dict[str, Any], keyword: str, path: str) -> list[Schema]:
    """The keyword's list of schemas; empty: not there."""
    parts: list[Schema] = checked(schema, keyword, list, path) or []
    return parts


def key_of(value: Any) -> str:
    """Equal for equal JSON values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list):
        return "[" + ",".join(map(key_of, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{key_of(value[key])}" for key in sorted(value)) + "}"
    return json.dumps(value)


def shown(value: Any) -> str:
    """A value in a refusal: cut short."""
    return json.dumps(value, default=str)[:80]
