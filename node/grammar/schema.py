"""A JSON schema as a grammar whose every text is JSON that satisfies it.

The grammar may say less than the schema allows, never more: properties come in the schema's order, those that it
does not name only where it asks for them, white space is bounded, nesting of free values too. A schema that can't
be kept this way raises InvalidSchema.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

from node.grammar import numbers
from node.grammar.constraints import Constraints, Reader
from node.grammar.errors import InvalidSchema
from node.grammar.gbnf import EMPTY, NEVER, Chars, Grammar, Repeat, Rule, Term, Text, choice, optional, sequence
from node.grammar.keywords import ARRAY_KEYS, NUMBER_KEYS, OBJECT_KEYS, STRING_KEYS, Schema
from node.grammar.pattern import pattern_of_format, pattern_string
from node.grammar.strings import CHARACTER, QUOTE, OtherKeys, literal

# A value that the schema says nothing about nests at most this deep, so that a weak model comes to an end.
FREE_DEPTH = 12
MAX_INDENT = 20
MAX_PROPERTIES = 1000


class SchemaGrammar:
    """Builds the grammar of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._reader = Reader(schema)
        self._grammar = Grammar()
        self._rules: dict[str, Rule] = {}
        indent = Repeat(Chars(((9, 9), (32, 32))), 0, MAX_INDENT)
        self._space = self._grammar.rule("space", choice([EMPTY, Text(" "), sequence(Text("\n"), indent)]))
        self._comma = self._grammar.rule("comma", sequence(Text(","), self._space))
        self._colon = self._grammar.rule("colon", choice([Text(": "), Text(":")]))
        self._char = self._grammar.rule("char", CHARACTER)
        self._text = self._grammar.rule("text", sequence(QUOTE, Repeat(self._char, 0, None), QUOTE))
        self._number = self._grammar.rule("number", numbers.NUMBER)

    def render(self, schema: Schema) -> str:
        """GBNF text of the whole."""
        return self._grammar.render(self._value(schema, ""))

    def render_any_object(self) -> str:
        """GBNF text of any JSON object."""
        return self._grammar.render(self._free("object", FREE_DEPTH))

    def _value(self, schema: Schema, path: str) -> Term:
        """A rule for a subschema; the same one for equal subschemas, so that recursive ones close."""
        key = json.dumps(schema)
        if key not in self._rules:
            name = self._grammar.new_name(path.rpartition("/")[2])
            self._rules[key] = Rule(name)
            try:
                options = [self._constrained(one, path) for one in self._reader.alternatives(schema, path)]
            except InvalidSchema as error:
                # Lower parts know what is wrong, but not always where.
                raise error if error.path else InvalidSchema(path, error.reason) from None
            self._grammar.define(name, choice(options))
        return self._rules[key]

    def _constrained(self, one: Constraints, path: str) -> Term:
        if one.values is not None:
            return self._enumerated(one, path)
        kinds = sorted(one.types) if one.types is not None else self._kinds_spoken_of(one)
        return choice(self._of_kind(kind, one, path) for kind in kinds)

    def _kinds_spoken_of(self, one: Constraints) -> list[str]:
        """Without a type: the kind of value that the keywords are about, else any."""
        about = {"object": OBJECT_KEYS, "array": ARRAY_KEYS, "string": STRING_KEYS, "number": NUMBER_KEYS}
        kinds = [kind for kind, keywords in about.items() if one.speaks_of & set(keywords)]
        return kinds or ["any"]

    def _of_kind(self, kind: str, one: Constraints, path: str) -> Term:
        match kind:
            case "object":
                return self._object(one, path)
            case "array":
                return self._array(one, path)
            case "string":
                return self._string(one)
            case "integer" | "number":
                return self._numeric(kind, one)
            case "boolean":
                return choice([Text("true"), Text("false")])
            case "null":
                return Text("null")
        return self._free("value", FREE_DEPTH)

    def _enumerated(self, one: Constraints, path: str) -> Term:
        return choice(literal(value) for value in one.values or () if self._reader.holds(value, one, path))

    def _string(self, one: Constraints) -> Term:
        least, most = one.counts.get("minLength", 0), one.counts.get("maxLength")
        of_format = pattern_of_format(one.format) if one.format else None
        if of_format is not None and one.pattern is not None:
            raise InvalidSchema("", "'pattern' beside 'format' can't be guaranteed")
        pattern = one.pattern if one.pattern is not None else of_format
        if pattern is not None:
            return pattern_string(pattern, self._grammar, least=least, most=most)
        if not least and most is None:
            return self._text
        return self._grammar.rule("text", sequence(QUOTE, self._grammar.repeat(self._char, least, most), QUOTE))

    def _numeric(self, kind: str, one: Constraints) -> Term:
        low: numbers.Bound | None = None
        high: numbers.Bound | None = None
        for name, value in one.bounds:
            bound = numbers.Bound(Fraction(repr(value)), not name.startswith("exclusive"))
            # Of equal bounds, the one that leaves its value out is the tighter.
            if name.lower().endswith("minimum"):
                low = bound if low is None else max(low, bound, key=lambda end: (end.value, not end.included))
            else:
                high = bound if high is None else min(high, bound, key=lambda end: (end.value, end.included))
        if low is None and high is None and kind == "number":
            return self._number
        return (numbers.integers if kind == "integer" else numbers.decimals)(low, high)

    def _array(self, one: Constraints, path: str) -> Term:
        """The items with a schema of their own, all of them, then any number of the rest."""
        least, most = one.counts.get("minItems", 0), one.counts.get("maxItems")
        prefix = one.prefix if most is None else one.prefix[:most]
        fixed = [self._value(schema, f"{path}/prefixItems/{number}") for number, schema in enumerate(prefix)]
        if one.rest is None and fixed:
            # More items would be allowed, but nobody has asked for them.
            most = max(least, len(fixed))
        item = self._free("value", FREE_DEPTH) if one.rest is None else self._value(one.rest, f"{path}/items")
        rest_least = max(0, least - len(fixed))
        rest_most = None if most is None else most - len(fixed)
        more = self._grammar.rule("more", sequence(self._comma, item))
        if fixed:
            listed = [fixed[0], *(sequence(self._comma, term) for term in fixed[1:])]
            inside: Term = sequence(*listed, self._grammar.repeat(more, rest_least, rest_most))
        else:
            fewer = None if rest_most is None else rest_most - 1
            inside = EMPTY
            if fewer is None or fewer >= 0:
                inside = sequence(item, self._grammar.repeat(more, max(0, rest_least - 1), fewer))
                inside = inside if rest_least else optional(inside)
            elif rest_least:
                inside = NEVER
        # Fewer items than have a schema of their own are fine where one of those can't be satisfied.
        options = [inside]
        if not least:
            options.append(EMPTY)
        return self._bracketed("[", choice(options), "]")

    def _object(self, one: Constraints, path: str) -> Term:
        names = self._names(one, path)
        if isinstance(names, frozenset):
            one, names = _listing(one, names), None
        elif names is not None and (one.properties or one.required):
            raise InvalidSchema(path, "a rule for all names beside names of properties can't be guaranteed")
        required = frozenset(one.required)
        properties = dict(one.properties)
        for name in one.required:
            properties.setdefault(name, True if one.extra is None else one.extra)
        if len(properties) > MAX_PROPERTIES:
            raise InvalidSchema(path, f"more than {MAX_PROPERTIES} properties")
        extra = self._extra(one, properties, path) if names is None else self._pair(names, one, path)
        if not properties and names is None and extra is not None and one.extra in (None, True):
            return self._free("object", FREE_DEPTH)
        # From the last property to the first: what may follow when nothing, or something, stands before.
        if extra is None:
            first: Term = EMPTY
            later: Term = EMPTY
        else:
            later = self._grammar.rule(
                "extras", Repeat(self._grammar.rule("extra", sequence(self._comma, extra)), 0, None)
            )
            first = optional(sequence(extra, later))
        for name, schema in reversed(properties.items()):
            value = self._value(schema, f"{path}/properties/{name}")
            pair = self._grammar.rule("pair", sequence(literal(name), self._colon, value))
            with_comma = sequence(self._comma, pair)
            if name in required:
                first = sequence(pair, later)
                later = sequence(with_comma, later)
            else:
                first = choice([sequence(pair, later), first])
                later = choice([sequence(with_comma, later), later])
            first, later = self._grammar.rule("first", first), self._grammar.rule("later", later)
        return self._bracketed("{", first, "}")

    def _extra(self, one: Constraints, properties: dict[str, Schema], path: str) -> Term | None:
        """A pair whose name is none of the properties; None where there shall be none."""
        if one.extra is False or (one.extra is None and properties):
            return None
        return self._pair(
            self._text if not properties else self._grammar.rule("key", OtherKeys(properties).term()), one, path
        )

    def _pair(self, key: Term, one: Constraints, path: str) -> Term:
        """A name and the value of a property that has no schema of its own."""
        schema = True if one.extra is None else one.extra
        return sequence(key, self._colon, self._value(schema, f"{path}/additionalProperties"))

    def _names(self, one: Constraints, path: str) -> Term | frozenset[str] | None:
        """What `propertyNames` leaves: a few names, or what all names are like; None: any name."""
        if one.names is None:
            return None
        options = self._reader.alternatives({"type": "string", "allOf": [one.names]}, f"{path}/propertyNames")
        if all(option.values is not None for option in options):
            listed = (value for option in options for value in option.values or ())
            return frozenset(
                value for value in listed if any(self._reader.holds(value, option, path) for option in options)
            )
        terms = [self._constrained(option, path) for option in options]
        return None if self._text in terms else choice(terms)

    def _bracketed(self, left: str, inside: Term, right: str) -> Term:
        full = sequence(Text(left), self._space, inside, self._space, Text(right))
        return full if inside != EMPTY else Text(left + right)

    def _free(self, kind: str, depth: int) -> Term:
        """Any value, or any object, that nests at most `depth` deep."""
        key = f"{kind}-{depth}"
        if key not in self._rules:
            name = self._grammar.new_name(f"any-{kind}")
            self._rules[key] = Rule(name)
            self._grammar.define(name, self._free_term(kind, depth))
        return self._rules[key]

    def _free_term(self, kind: str, depth: int) -> Term:
        if kind == "value":
            scalars = [self._text, self._number, Text("true"), Text("false"), Text("null")]
            nested = [self._free("object", depth), self._free("array", depth)] if depth else []
            return choice([*nested, *scalars])
        item = self._free("value", depth - 1)
        if kind == "object":
            item = self._grammar.rule("any-pair", sequence(self._text, self._colon, item))
        more = self._grammar.rule("more", sequence(self._comma, item))
        left, right = "{}" if kind == "object" else "[]"
        return choice([Text(left + right), self._bracketed(left, sequence(item, Repeat(more, 0, None)), right)])


def _listing(one: Constraints, names: frozenset[str]) -> Constraints:
    """The same where only these names may be: each of them becomes a property."""
    properties = {name: schema if name in names else False for name, schema in one.properties.items()}
    if one.extra is not False:
        others = True if one.extra is None else one.extra
        properties |= {name: others for name in sorted(names) if name not in properties}
    return replace(one, properties=properties, extra=False)
