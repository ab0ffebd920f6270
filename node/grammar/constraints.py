"""A JSON schema taken apart: what it says of a value as alternatives of plain constraints.

References are followed, `allOf` is merged, `anyOf` and `oneOf` become alternatives. Subschemas of properties and
items stay schemas. Every keyword that is neither understood nor known to be harmless raises InvalidSchema: better
refused than silently not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from node.grammar.errors import InvalidSchema
from node.grammar.keywords import (
    COUNTS,
    Schema,
    bounds_of,
    check_multiple,
    check_supported,
    checked,
    key_of,
    schemas_of,
    shown,
    types_of,
    values_of,
    whole_number,
)
from node.grammar.pattern import pattern_of_format

MAX_NODES = 20_000
MAX_DEPTH = 100
MAX_ALTERNATIVES = 500
MAX_STEPS = 50_000


@dataclass(frozen=True, slots=True)
class Constraints:
    """What holds of a value, all at once. `types` None: any; `values` None: any.

    `extra` is the schema of properties not named, None where the schema does not speak of them; `names` is what
    all names of properties satisfy; `rest` is as `extra`, of items behind `prefix`.
    """

    types: frozenset[str] | None = None
    values: tuple[Any, ...] | None = None
    properties: dict[str, Schema] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    extra: Schema = None
    names: Schema = None
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
            raise InvalidSchema(path, f"a schema is an object or a boolean, not {shown(schema)}")
        check_supported(schema, path)
        found = [self._own(schema, path)]
        if "$ref" in schema:
            target = schema["$ref"]
            if target in following:
                raise InvalidSchema(f"{path}/$ref", "the reference leads back to itself")
            found = _all_of(found, self.alternatives(self.resolve(target, path), path, (*following, target)), path)
        for number, part in enumerate(schemas_of(schema, "allOf", path)):
            found = _all_of(found, self.alternatives(part, f"{path}/allOf/{number}", following), path)
        for keyword in ("anyOf", "oneOf"):
            if keyword not in schema:
                continue
            options = [
                self.alternatives(part, f"{path}/{keyword}/{number}", following)
                for number, part in enumerate(schemas_of(schema, keyword, path))
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
        properties = checked(schema, "properties", dict, path) or {}
        required = checked(schema, "required", list, path) or []
        if not all(isinstance(name, str) for name in required):
            raise InvalidSchema(f"{path}/required", "names are texts")
        items = schema.get("items")
        prefix = checked(schema, "prefixItems", list, path) or []
        if isinstance(items, list):
            # Before 2020-12, a list of items was what prefixItems is now.
            prefix, items = items, schema.get("additionalItems")
        names, extra = schema.get("propertyNames"), schema.get("additionalProperties")
        if patterns := checked(schema, "patternProperties", dict, path):
            if len(patterns) > 1 or properties or names is not None:
                raise InvalidSchema(f"{path}/patternProperties", "only one pattern by itself can be guaranteed")
            # Other names may be allowed, but nobody has asked for them.
            [(pattern, extra)] = patterns.items()
            names = {"pattern": pattern}
        counts = {name: whole_number(schema[name], f"{path}/{name}") for name in COUNTS if name in schema}
        check_multiple(schema, path)
        return Constraints(
            types=types_of(schema, path),
            values=values_of(schema, path),
            properties=properties,
            required=tuple(dict.fromkeys(required)),
            extra=extra,
            names=names,
            prefix=tuple(prefix),
            rest=items,
            counts=counts,
            bounds=tuple(bounds_of(schema, path)),
            pattern=checked(schema, "pattern", str, path),
            format=checked(schema, "format", str, path),
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
                return not any(self.holds(value, other, path, guess=True) for value in one.values)
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

    def holds(self, value: Any, constraints: Constraints, path: str, *, guess: bool = False) -> bool:
        """Whether a value satisfies the constraints; to `guess` is to take patterns and formats to hold.

        Raises: InvalidSchema: it would have to be guessed.
        """
        if constraints.values is not None and key_of(value) not in map(key_of, constraints.values):
            return False
        if constraints.types is not None and not _has_type(value, constraints.types):
            return False
        counts, bounds = constraints.counts, constraints.bounds

        def fits(item: Any, schema: Schema) -> bool:
            return schema is None or any(
                self.holds(item, one, path, guess=guess) for one in self.alternatives(schema, path)
            )

        if isinstance(value, str):
            if not guess and _restricts_characters(constraints):
                raise InvalidSchema(path, "'pattern' or 'format' beside fixed values can't be guaranteed")
            return counts.get("minLength", 0) <= len(value) <= counts.get("maxLength", len(value))
        if isinstance(value, list):
            schemas = (*constraints.prefix, *[constraints.rest] * len(value))
            fitting = counts.get("minItems", 0) <= len(value) <= counts.get("maxItems", len(value))
            return fitting and all(fits(item, schema) for item, schema in zip(value, schemas, strict=False))
        if isinstance(value, dict):
            named = constraints.properties
            return set(constraints.required) <= value.keys() and all(
                fits(name, constraints.names) and fits(item, named.get(name, constraints.extra))
                for name, item in value.items()
            )
        if isinstance(value, bool) or value is None:
            return True
        return all(_in_bound(value, name, bound) for name, bound in bounds)

    def _schemas_exclude(self, left: Schema, right: Schema, path: str, depth: int) -> bool:
        ours, theirs = self.alternatives(left, path), self.alternatives(right, path)
        return all(self.exclude(one, other, path, depth + 1) for one in ours for other in theirs)


def _restricts_characters(one: Constraints) -> bool:
    return one.pattern is not None or (one.format is not None and pattern_of_format(one.format) is not None)


def _all_of(left: list[Constraints], right: list[Constraints], path: str) -> list[Constraints]:
    if len(left) * len(right) > MAX_ALTERNATIVES:
        raise InvalidSchema(path, "too many alternatives")
    return [both for one in left for other in right if (both := merge(one, other, path)) is not None]


def merge(left: Constraints, right: Constraints, path: str) -> Constraints | None:
    """Both at once; None where no value can satisfy both."""
    types = _meet(left.types, right.types)
    values = left.values if right.values is None else right.values
    if left.values is not None and right.values is not None:
        known = set(map(key_of, right.values))
        values = tuple(value for value in left.values if key_of(value) in known)
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
        names=_both(left.names, right.names),
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
