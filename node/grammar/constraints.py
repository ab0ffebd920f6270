"""A JSON schema taken apart: what it says of a value as alternatives of plain constraints.

References are followed, `allOf` is merged, `anyOf` and `oneOf` become alternatives. Subschemas of properties and
items stay schemas. Every keyword that is neither understood nor known to be harmless raises InvalidSchema: better
refused than silently not kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import unquote

from node.grammar.errors import InvalidSchema

Schema: TypeAlias = Any  # a JSON value that should be an object or a boolean

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
MAX_NODES = 20_000
MAX_DEPTH = 100
MAX_ALTERNATIVES = 500
MAX_STEPS = 50_000

# Keywords that restrict, and which no grammar here can keep, with the values that make them harmless.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "not": (False,),
    "patternProperties": ({},),
    "propertyNames": (True, {}),
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
OBJECT_KEYS = ("properties", "required", "additionalProperties")
ARRAY_KEYS = ("items", "prefixItems", "additionalItems", "minItems", "maxItems")
STRING_KEYS = ("minLength", "maxLength", "pattern", "format")
NUMBER_KEYS = (*BOUNDS, "multipleOf")


@dataclass(frozen=True, slots=True)
class Constraints:
    """What holds of a value, all at once. `types` None: any; `values` None: any.

    `extra` is the schema of properties not named, None where the schema does not speak of them; `rest` likewise
    of items behind `prefix`.
    """

    types: frozenset[str] | None = None
    values: tuple[Any, ...] | None = None
    properties: dict[str, Schema] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    extra: Schema = None
    prefix: tuple[Schema, ...] = ()
    rest: Schema = None
    counts: dict[str, int] = field(default_factory=dict)
    bounds: tuple[tuple[str, int | float], ...] = ()
    pattern: str | None = None
    format: str | None = None
    speaks_of: frozenset[str] = frozenset()


class Reader:
    """Reads the subschemas of one document. Raises InvalidSchema."""

    def __init__(self, document: Schema) -> None:
        self._document = document
        self._steps = 0
        self._check_size(document)

    def alternatives(self, schema: Schema, path: str, following: tuple[str, ...] = ()) -> list[Constraints]:
        """The ways in which a value can satisfy a schema; none where it can't.

        `following` are the references on the way here, as one that comes back to itself says nothing.
        """
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise InvalidSchema(path, "the schema is too intricate")
        if schema is True:
            return [Constraints()]
        if schema is False:
            return []
        if not isinstance(schema, dict):
            raise InvalidSchema(path, f"a schema is an object or a boolean, not {_shown(schema)}")
        _check_supported(schema, path)
        found = [self._own(schema, path)]
        if "$ref" in schema:
            target = schema["$ref"]
            if target in following:
                raise InvalidSchema(f"{path}/$ref", "the reference leads back to itself")
            found = _all_of(found, self.alternatives(self.resolve(target, path), path, (*following, target)), path)
        for number, part in enumerate(_schemas(schema, "allOf", path)):
            found = _all_of(found, self.alternatives(part, f"{path}/allOf/{number}", following), path)
        for keyword in ("anyOf", "oneOf"):
            if keyword not in schema:
                continue
            options = [
                self.alternatives(part, f"{path}/{keyword}/{number}", following)
                for number, part in enumerate(_schemas(schema, keyword, path))
            ]
            combined = [_all_of(found, option, path) for option in options]
            if keyword == "oneOf":
                self._check_exclusive(combined, path)
            found = [one for option in combined for one in option]
            if len(found) > MAX_ALTERNATIVES:
                raise InvalidSchema(path, "too many alternatives")
        return found

    def resolve(self, reference: Any, path: str) -> Schema:
        """What a local reference points to."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise InvalidSchema(f"{path}/$ref", "only references within the schema (#/...) are followed")
        at = self._document
        for part in unquote(reference[1:]).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(at, list) and key.isascii() and key.isdigit() and int(key) < len(at):
                at = at[int(key)]
            elif isinstance(at, dict) and key in at:
                at = at[key]
            else:
                raise InvalidSchema(f"{path}/$ref", f"{reference[:80]!r} points nowhere")
        if reference[1:] and not reference.startswith("#/"):
            raise InvalidSchema(f"{path}/$ref", "references to anchors are not followed")
        return at

    def _check_size(self, document: Schema) -> None:
        waiting = [(document, 0)]
        nodes = 0
        while waiting:
            value, depth = waiting.pop()
            nodes += 1
            if nodes > MAX_NODES or depth > MAX_DEPTH:
                raise InvalidSchema("", "the schema is too large")
            children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            waiting += [(child, depth + 1) for child in children]

    def _own(self, schema: dict[str, Any], path: str) -> Constraints:
        """The keywords of a schema object that combine nothing."""
        properties = _checked(schema, "properties", dict, path) or {}
        required = _checked(schema, "required", list, path) or []
        if not all(isinstance(name, str) for name in required):
            raise InvalidSchema(f"{path}/required", "names are texts")
        items = schema.get("items")
        prefix = _checked(schema, "prefixItems", list, path) or []
        if isinstance(items, list):
            # Before 2020-12, a list of items was what prefixItems is now.
            prefix, items = items, schema.get("additionalItems")
        counts = {name: _count(schema[name], f"{path}/{name}") for name in COUNTS if name in schema}
        _check_multiple(schema, path)
        return Constraints(
            types=_types(schema, path),
            values=_values(schema, path),
            properties=properties,
            required=tuple(dict.fromkeys(required)),
            extra=schema.get("additionalProperties"),
            prefix=tuple(prefix),
            rest=items,
            counts=counts,
            bounds=tuple(_bounds(schema, path)),
            pattern=_checked(schema, "pattern", str, path),
            format=_checked(schema, "format", str, path),
            speaks_of=frozenset(schema),
        )

    def _check_exclusive(self, options: list[list[Constraints]], path: str) -> None:
        """Of `oneOf`, exactly one may hold: so no value of one alternative may be one of another."""
        for number, option in enumerate(options):
            for other in options[:number]:
                if not all(self.exclude(left, right, path, 0) for left in option for right in other):
                    raise InvalidSchema(
                        f"{path}/oneOf",
                        "alternatives may overlap, so that 'exactly one' can't be guaranteed; use anyOf",
                    )

    def exclude(self, left: Constraints, right: Constraints, path: str, depth: int) -> bool:
        """Whether it is plain to see that no value satisfies both."""
        for one, other in ((left, right), (right, left)):
            if one.values is not None:
                return not any(self.holds(value, other, path) for value in one.values)
        types = _meet(left.types, right.types)
        if types is not None and not types:
            return True
        if types != frozenset(["object"]) or depth > MAX_DEPTH // 10:
            return False
        for one, other in ((left, right), (right, left)):
            for name in one.required:
                if name in other.properties and self._schemas_exclude(
                    one.properties.get(name, True), other.properties[name], path, depth
                ):
                    return True
                if name not in other.properties and other.extra is False:
                    return True
        return False

    def holds(self, value: Any, constraints: Constraints, path: str) -> bool:
        """Whether a value may satisfy the constraints: patterns and formats are taken to hold."""
        if constraints.values is not None and _key(value) not in map(_key, constraints.values):
            return False
        if constraints.types is not None and not _has_type(value, constraints.types):
            return False
        counts, bounds = constraints.counts, constraints.bounds
        if isinstance(value, str):
            return counts.get("minLength", 0) <= len(value) <= counts.get("maxLength", len(value))
        if isinstance(value, list):
            schemas = (*constraints.prefix, *[constraints.rest] * len(value))
            fits = counts.get("minItems", 0) <= len(value) <= counts.get("maxItems", len(value))
            return fits and all(self._fits(item, schema, path) for item, schema in zip(value, schemas, strict=False))
        if isinstance(value, dict):
            named = constraints.properties
            return set(constraints.required) <= value.keys() and all(
                self._fits(item, named.get(name, constraints.extra), path) for name, item in value.items()
            )
        if isinstance(value, bool) or value is None:
            return True
        return all(_in_bound(value, name, bound) for name, bound in bounds)

    def _fits(self, value: Any, schema: Schema, path: str) -> bool:
        return schema is None or any(self.holds(value, one, path) for one in self.alternatives(schema, path))

    def _schemas_exclude(self, left: Schema, right: Schema, path: str, depth: int) -> bool:
        ours, theirs = self.alternatives(left, path), self.alternatives(right, path)
        return all(self.exclude(one, other, path, depth + 1) for one in ours for other in theirs)


def _check_supported(schema: dict[str, Any], path: str) -> None:
    for keyword, harmless in UNSUPPORTED.items():
        if keyword in schema and schema[keyword] not in harmless:
            raise InvalidSchema(f"{path}/{keyword}", f"{keyword!r} can't be guaranteed")
    if "if" in schema and ("then" in schema or "else" in schema):
        raise InvalidSchema(f"{path}/if", "'if' can't be guaranteed")
    required = schema.get("required")
    least = _count(schema.get("minProperties", 0), f"{path}/minProperties")
    if least > (len(set(map(str, required))) if isinstance(required, list) else 0):
        raise InvalidSchema(f"{path}/minProperties", "'minProperties' can't be guaranteed beyond 'required'")


def _all_of(left: list[Constraints], right: list[Constraints], path: str) -> list[Constraints]:
    if len(left) * len(right) > MAX_ALTERNATIVES:
        raise InvalidSchema(path, "too many alternatives")
    return [both for one in left for other in right if (both := merge(one, other, path)) is not None]


def merge(left: Constraints, right: Constraints, path: str) -> Constraints | None:
    """Both at once; None where no value can satisfy both."""
    types = _meet(left.types, right.types)
    values = left.values if right.values is None else right.values
    if left.values is not None and right.values is not None:
        known = set(map(_key, right.values))
        values = tuple(value for value in left.values if _key(value) in known)
    if values == () or (types is not None and not types):
        return None
    counts = dict(left.counts)
    for name, count in right.counts.items():
        pick = max if name.startswith("min") else min
        counts[name] = pick(count, counts.get(name, count))
    for name in ("pattern", "format"):
        ours, theirs = getattr(left, name), getattr(right, name)
        if ours is not None and theirs is not None and ours != theirs:
            raise InvalidSchema(path, f"two different values of {name!r} can't both be guaranteed")
    return replace(
        left,
        types=types,
        values=values,
        properties=_merged_properties(left, right),
        required=tuple(dict.fromkeys((*left.required, *right.required))),
        extra=_both(left.extra, right.extra),
        prefix=tuple(_merged_prefix(left, right)),
        rest=_both(left.rest, right.rest),
        counts=counts,
        bounds=(*left.bounds, *right.bounds),
        pattern=left.pattern if left.pattern is not None else right.pattern,
        format=left.format if left.format is not None else right.format,
        speaks_of=left.speaks_of | right.speaks_of,
    )


def _merged_properties(left: Constraints, right: Constraints) -> dict[str, Schema]:
    """Each side's rule for other properties holds for those that only the other side names."""
    names = dict.fromkeys((*left.properties, *right.properties))
    return {
        name: _both(left.properties.get(name, left.extra), right.properties.get(name, right.extra)) for name in names
    }


def _merged_prefix(left: Constraints, right: Constraints) -> Iterator[Schema]:
    for number in range(max(len(left.prefix), len(right.prefix))):
        ours = left.prefix[number] if number < len(left.prefix) else left.rest
        theirs = right.prefix[number] if number < len(right.prefix) else right.rest
        yield _both(ours, theirs)


def _both(left: Schema, right: Schema) -> Schema:
    """A schema for both; None says nothing, on either side."""
    if left is None or left is True or left == right:
        return right if left is None or right is not None else left
    return left if right is None or right is True else {"allOf": [left, right]}


def _has_type(value: Any, types: frozenset[str]) -> bool:
    if isinstance(value, bool):
        return "boolean" in types
    if isinstance(value, int | float):
        return "number" in types or ("integer" in types and value == int(value))
    return {"str": "string", "list": "array", "dict": "object"}.get(type(value).__name__, "null") in types


def _in_bound(value: float, name: str, bound: float) -> bool:
    if name.startswith("exclusive"):
        return value > bound if name.endswith("Minimum") else value < bound
    return value >= bound if name == "minimum" else value <= bound


def _meet(left: frozenset[str] | None, right: frozenset[str] | None) -> frozenset[str] | None:
    """Types in both sets; a whole number is a number."""
    if left is None or right is None:
        return right if left is None else left
    both = left & right
    for one, other in ((left, right), (right, left)):
        if "integer" in one and "number" in other:
            both |= {"integer"}
    return both - {"integer"} if "number" in both else both


def _types(schema: dict[str, Any], path: str) -> frozenset[str] | None:
    if "type" not in schema:
        return None
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for name in names:
        if name not in TYPES:
            raise InvalidSchema(f"{path}/type", f"unknown type {_shown(name)}")
    return frozenset(names)


def _values(schema: dict[str, Any], path: str) -> tuple[Any, ...] | None:
    values: tuple[Any, ...] | None = None
    if "enum" in schema:
        values = tuple(_checked(schema, "enum", list, path) or ())
    if "const" in schema:
        const = schema["const"]
        values = (const,) if values is None or _key(const) in map(_key, values) else ()
    return values


def _bounds(schema: dict[str, Any], path: str) -> Iterator[tuple[str, int | float]]:
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
            raise InvalidSchema(f"{path}/{name}", f"must be a number, not {_shown(value)}")
        yield name, value


def _check_multiple(schema: dict[str, Any], path: str) -> None:
    if "multipleOf" in schema and not (schema["multipleOf"] == 1 and schema.get("type") == "integer"):
        raise InvalidSchema(f"{path}/multipleOf", "'multipleOf' can't be guaranteed")


def _count(value: Any, path: str) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value < 0
        or value != int(value)
    ):
        raise InvalidSchema(path, f"must be a whole number, not {_shown(value)}")
    return int(value)


def _checked(schema: dict[str, Any], keyword: str, kind: type[Any], path: str) -> Any:
    value = schema.get(keyword)
    if keyword in schema and not isinstance(value, kind):
        names: dict[Any, str] = {dict: "an object", list: "a list", str: "a text"}
        raise InvalidSchema(f"{path}/{keyword}", f"must be {names[kind]}, not {_shown(value)}")
    return value


def _schemas(schema: dict[str, Any], keyword: str, path: str) -> list[Schema]:
    parts: list[Schema] = _checked(schema, keyword, list, path) or []
    return parts


def _key(value: Any) -> str:
    """Equal for equal JSON values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_key, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_key(value[key])}" for key in sorted(value)) + "}"
    return json.dumps(value)


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:80]
