"""Schemas of every supported kind, by name."""

from __future__ import annotations

from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "integers between": {"type": "integer", "minimum": -17, "maximum": 1234},
    "integers above": {"type": "integer", "exclusiveMinimum": 99},
    "integers below": {"type": "integer", "maximum": -7},
    "integers of fractions": {"type": "integer", "minimum": 0.5, "exclusiveMaximum": 12.0},
    "integers beyond doubles": {"type": "integer", "minimum": 10**20 + 3, "maximum": 10**20 + 77},
    "numbers between": {"type": "number", "minimum": 0.25, "exclusiveMaximum": 0.75},
    "numbers across zero": {"type": "number", "minimum": -2.5, "maximum": 10.125},
    "numbers of little room": {"type": "number", "exclusiveMinimum": 1.0000001, "exclusiveMaximum": 1.0000003},
    "negative numbers": {"type": "number", "exclusiveMaximum": 0},
    "small numbers": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e-9},
    "numbers of many digits": {"type": "number", "exclusiveMinimum": 0.1 + 0.2},
    "large numbers": {"type": "number", "minimum": 1e17},
    "free numbers": {"type": "number"},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 5},
    "long text": {"type": "string", "minLength": 2500, "maxLength": 3000},
    "nullable": {"type": ["string", "null"]},
    "enum": {"enum": ["a", 1, None, {"x": [1, "ü\n"]}, True]},
    "enum of a type": {"type": "string", "enum": ["a", 1, "bcd"], "maxLength": 2},
    "const": {"const": 'say "hi" \\ there'},
    "any of": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "boolean"}}]},
    "one of types": {"oneOf": [{"type": "integer"}, {"type": "string"}]},
    "one of kinds": {
        "oneOf": [
            {"type": "object", "properties": {"k": {"const": "a"}, "x": {"type": "integer"}}, "required": ["k", "x"]},
            {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"], "additionalProperties": False},
        ]
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
            {"properties": {"a": {"minimum": 3}, "b": {"type": "string"}}, "required": ["b"]},
        ]
    },
    "all of, closed": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "number"}}, "additionalProperties": {"type": "integer"}},
            {"properties": {"b": {"type": "number", "minimum": 3}}, "required": ["b", "c"]},
        ]
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "integer"}],
        "items": {"type": "null"},
        "minItems": 3,
        "maxItems": 5,
    },
    "closed tuple": {"type": "array", "prefixItems": [{"type": "string"}], "items": False},
    "array of bounds": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    "array of nothing": {"type": "array", "items": False},
    "array of anything": {"type": "array", "minItems": 1},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "map of text": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "integer"}},
    "map of a few names": {
        "type": "object",
        "propertyNames": {"type": "string", "enum": ["a", "b", "c"]},
        "properties": {"b": {"type": "null"}, "d": {"type": "null"}},
        "additionalProperties": {"type": "integer"},
        "required": ["a"],
    },
    "map of short names": {"type": "object", "propertyNames": {"maxLength": 2}, "additionalProperties": {"const": 1}},
    "map of names like these": {"propertyNames": {"anyOf": [{"pattern": "^[a-c]{2}$"}, {"enum": ["else"]}]}},
    "map of names and no values": {"propertyNames": {"pattern": "^a$"}, "additionalProperties": False},
    "names that are no text": {"propertyNames": {"anyOf": [{"enum": [1, "a"]}, {"pattern": "^b$"}]}},
    "pattern of names": {"type": "object", "patternProperties": {"^x-[0-9]+$": {"type": "boolean"}}},
    "closed pattern of names": {
        "patternProperties": {"^x": {"type": "boolean"}},
        "additionalProperties": False,
    },
    "required without schema": {"type": "object", "required": ["x"], "additionalProperties": {"type": "integer"}},
    "anything": {"title": "anything", "description": "goes", "default": 1},
    "no type, but about objects": {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
    "recursive": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["value", "children"],
                "additionalProperties": False,
            }
        },
    },
    "recursive, in an endless alternative": {
        "anyOf": [{"type": "null"}, {"type": "object", "properties": {"x": {"$ref": "#/$defs/y"}}, "required": ["x"]}],
        "$defs": {"y": {"type": "object", "properties": {"y": {"$ref": "#/$defs/y"}}, "required": ["y"]}},
    },
    "forbidden property": {"type": "object", "properties": {"a": False, "b": {"type": "integer"}}},
    "pointer with escapes": {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "boolean"}}},
    "one of, with values": {"oneOf": [{"enum": [1, 2]}, {"type": "string", "minLength": 1}]},
} | {
    f"format {name}": {"type": "string", "format": name}
    for name in ("date", "time", "date-time", "uuid", "email", "ipv4", "hostname", "uri", "duration", "made-up")
}
