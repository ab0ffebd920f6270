"""Whatever a grammar produces satisfies the schema that it was made from."""

from __future__ import annotations

import json
import random
from datetime import date, datetime, time
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from node.grammar import InvalidSchema, grammar_for
from tests.grammar.schema_cases import CASES
from tests.support.gbnf import Sampler

FORMATS = Draft202012Validator.FORMAT_CHECKER


def samples(schema: dict[str, Any] | str, count: int = 60, seed: int = 0) -> list[str]:
    sampler = Sampler(grammar_for(schema))
    rng = random.Random(seed)
    return [sampler.sample(rng) for _ in range(count)]


def check(schema: dict[str, Any], count: int = 60, seed: int = 0) -> list[Any]:
    """Every sample is JSON that satisfies the schema; returns the values."""
    validator = Draft202012Validator(schema, format_checker=FORMATS)
    values = []
    for text in samples(schema, count, seed):
        text.encode()
        value = json.loads(text)
        errors = [error.message for error in validator.iter_errors(value)]
        assert not errors, (text, errors)
        values.append(value)
    return values


def test_json_is_any_object() -> None:
    for text in samples("json", 200):
        assert isinstance(json.loads(text), dict)


def test_a_given_grammar_is_passed_on_unchanged() -> None:
    assert grammar_for('gbnf:root ::= "a"') == 'root ::= "a"'


def test_white_space_is_bounded() -> None:
    assert max(len(text) - len("".join(text.split())) for text in samples({"type": "array", "maxItems": 0})) < 50


def test_properties_come_in_the_order_of_the_schema_and_required_ones_always() -> None:
    schema = {
        "type": "object",
        "properties": {"z": {"type": "integer"}, "a": {"type": "null"}, "m": {"type": "boolean"}},
        "required": ["a"],
    }
    seen = {tuple(value) for value in check(schema, 200)}
    assert seen == {("z", "a", "m"), ("z", "a"), ("a", "m"), ("a",)}


def test_unnamed_properties_come_only_where_the_schema_speaks_of_them() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"ab": {"type": "integer"}, "": {"type": "null"}}}
    assert all(value.keys() <= {"ab", ""} for value in check(schema))
    values = check(schema | {"additionalProperties": {"type": "string"}}, 300)
    assert any(value.keys() - {"ab", ""} for value in values)


@pytest.mark.parametrize("schema", CASES.values(), ids=CASES.keys())
def test_every_sample_satisfies_the_schema(schema: dict[str, Any]) -> None:
    count = 5 if "minLength" in schema and schema["minLength"] > 1000 else 80
    assert check(schema, count)


def test_dates_are_days_of_the_calendar() -> None:
    assert all(time.fromisoformat(value).tzinfo for value in check({"type": "string", "format": "time"}, 300))
    assert all(date.fromisoformat(value) for value in check({"type": "string", "format": "date"}, 300))
    assert all(datetime.fromisoformat(value) for value in check({"type": "string", "format": "date-time"}, 300))


@pytest.mark.parametrize(
    "pattern",
    [
        "^a+b*$",
        "^(foo|ba[rz])?$",
        r"^\d{3}-[A-F0-9]{2,4}$",
        "abc",
        "^x|y$",
        r"^[^a-c\"\\]{2}$",
        r"^[\w.-]+@[\w-]+\.com$",
        r"^\S+\s\W\D$",
        r"^[^\w]{3}$",
        r"^(?:a(?:b|c){2}){1,3}$",
        r"^.{5}$",
        '^\\x41\\u00e9\\n\\t"$',
        r"^[\]\-^]+$",
        "^$",
        r"^(?P<year>[12]\d{3})\/$",
        "^a{0,1500}$",
    ],
)
def test_every_sample_matches_the_pattern(pattern: str) -> None:
    check({"type": "string", "pattern": pattern}, 100)


def test_a_pattern_may_stand_beside_lengths_that_it_keeps() -> None:
    check({"type": "string", "pattern": "^[a-z]{2,5}$", "minLength": 2, "maxLength": 5})


REFUSED: dict[str, tuple[Any, str]] = {
    "not": ({"not": {"type": "string"}}, "/not"),
    "if": ({"if": {"type": "string"}, "then": {"minLength": 1}}, "/if"),
    "unique": ({"type": "array", "items": {"uniqueItems": True}}, "/items/uniqueItems"),
    "multiple": ({"type": "object", "properties": {"a": {"multipleOf": 3}}}, "/properties/a/multipleOf"),
    "patterns of names": ({"patternProperties": {"a": {}, "b": {}}}, "/patternProperties"),
    "pattern of names beside names": ({"patternProperties": {"a": {}}, "properties": {"b": {}}}, "/patternProperties"),
    "rule for names beside names": ({"propertyNames": {"pattern": "^a$"}, "required": ["a"]}, ""),
    "pattern in a fixed value": ({"enum": [{"a": "b"}], "properties": {"a": {"pattern": "^c$"}}}, ""),
    "pattern for names of a fixed value": ({"enum": [{"a": 1}], "propertyNames": {"pattern": "^c$"}}, ""),
    "overlap": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "/oneOf"),
    "remote": ({"$ref": "https://example.com/x"}, "/$ref"),
    "nowhere": ({"$ref": "#/$defs/x"}, "/$ref"),
    "circle": ({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}, "/$ref"),
    "type": ({"type": "text"}, "/type"),
    "not a schema": ({"type": "array", "items": 3}, "/items"),
    "required": ({"required": "a"}, "/required"),
    "bound": ({"minimum": "3"}, "/minimum"),
    "count": ({"type": "string", "minLength": -1}, "/minLength"),
    "least properties": ({"type": "object", "minProperties": 1}, "/minProperties"),
    "endless": ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, ""),
    "impossible": ({"allOf": [{"type": "string"}, {"type": "null"}]}, ""),
    "look-ahead": ({"type": "string", "pattern": "^(?=a)b$"}, ""),
    "back-reference": ({"type": "string", "pattern": r"^(a)\1$"}, ""),
    "word boundary": ({"type": "string", "pattern": r"^a\b$"}, ""),
    "inner anchor": ({"type": "string", "pattern": "a^b"}, ""),
    "malformed pattern": ({"type": "string", "pattern": "("}, ""),
    "endless pattern": ({"type": "string", "pattern": "^(a*)*$"}, ""),
    "possessive": ({"type": "string", "pattern": "^a*+a$"}, ""),
    "pattern and length": ({"type": "string", "pattern": "^a*$", "maxLength": 3}, ""),
    "pattern and format": ({"type": "string", "pattern": "^a*$", "format": "date"}, ""),
    "two patterns": ({"allOf": [{"pattern": "^a*$"}, {"pattern": "^b*$"}]}, ""),
}


@pytest.mark.parametrize(("schema", "path"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_guaranteed_is_refused_by_name(schema: Any, path: str) -> None:
    with pytest.raises(InvalidSchema) as caught:
        grammar_for(schema)
    assert caught.value.path == path
    assert str(caught.value)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(depth: int) -> dict[str, Any]:
    defs: dict[str, Any] = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(depth)}
    return {"$ref": "#/$defs/d0", "$defs": defs | {f"d{depth}": False}}


@pytest.mark.parametrize(
    "schema",
    [
        nested(5000),
        doubling(60),
        {"type": "string", "minLength": 10**9},
        {"type": "object", "properties": {f"p{n}": {} for n in range(1001)}},
        {"allOf": [{"anyOf": [{"minLength": n} for n in range(30)]}] * 4},
        {"type": "integer", "minimum": 10**100},
        {"enum": ["x" * 200_000]},
        {"type": "array", "prefixItems": [{"type": "string", "maxLength": n + 60_000} for n in range(400)]},
    ],
    ids=["deep", "doubling", "long", "wide", "product", "far", "large", "many"],
)
def test_hostile_schemas_are_refused_soon(schema: Any) -> None:
    with pytest.raises(InvalidSchema):
        grammar_for(schema)


def test_a_huge_upper_limit_is_no_reason_to_refuse() -> None:
    assert len(grammar_for({"type": "string", "maxLength": 10**9})) < 100_000
    assert len(grammar_for({"type": "array", "items": {"type": "integer"}, "maxItems": 10**9})) < 100_000
    assert len(grammar_for({"type": "string", "pattern": "^((a{0,1000}b){1000}c){0,1000}$"})) < 100_000


names = st.sampled_from(["a", "b", "ab", "", "é", 'q"', "x y", "abc"])
small = st.integers(min_value=0, max_value=6)
bounds = st.one_of(
    st.integers(-2000, 2000), st.floats(-1000, 1000, allow_nan=False), st.sampled_from([0.1, 1e-7, 1e16])
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(names, children, max_size=2),
    max_leaves=4,
)


@st.composite
def numeric(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if draw(st.integers(0, 3)) == 0:
            schema[name] = draw(bounds)
    return schema


def lengths(schema: dict[str, Any], least: str, most: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda low, extra: schema | {least: low, most: low + extra}, small, small)


leaves = st.one_of(
    numeric(),
    lengths({"type": "string"}, "minLength", "maxLength"),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "string"]}, {}, {"type": "string"}]),
    st.sampled_from(["^[a-c]+$", "x.z", r"^\d{2,3}(,\d)*$"]).map(lambda p: {"type": "string", "pattern": p}),
    st.lists(json_values, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    json_values.map(lambda value: {"const": value}),
    st.just({"$ref": "#/$defs/shared"}),
)


@st.composite
def composed(draw: st.DrawFn, children: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["object", "object", "array", "anyOf", "oneOf", "allOf"]))
    if kind == "object":
        schema: dict[str, Any] = {"type": "object", "properties": draw(st.dictionaries(names, children, max_size=4))}
        schema["required"] = draw(st.lists(names, max_size=3, unique=True))
        extra = draw(st.none() | st.booleans() | children)
        return schema if extra is None else schema | {"additionalProperties": extra}
    if kind == "array":
        schema = draw(lengths({"type": "array"}, "minItems", "maxItems"))
        if draw(st.booleans()):
            schema["prefixItems"] = draw(st.lists(children, min_size=1, max_size=3))
        items = draw(st.none() | st.booleans() | children)
        return schema if items is None else schema | {"items": items}
    return {kind: draw(st.lists(children, min_size=1, max_size=3))}


schemas = st.recursive(leaves, composed, max_leaves=8)


@settings(max_examples=150, deadline=None)
@given(schema=schemas, shared=schemas, seed=st.integers(0, 10**6))
def test_samples_of_random_schemas_satisfy_them(schema: dict[str, Any], shared: dict[str, Any], seed: int) -> None:
    whole = schema | {"$defs": {"shared": shared}}
    try:
        check(whole, 12, seed)
    except InvalidSchema as refusal:
        event(refusal.reason)
