"""The grammar that a reply has to follow, from the format that a request asks for."""

from __future__ import annotations

from typing import Any

from node.grammar.errors import InvalidSchema
from node.grammar.schema import SchemaGrammar

__all__ = ["InvalidSchema", "grammar_for"]

GBNF_PREFIX = "gbnf:"


def grammar_for(output_format: dict[str, Any] | str) -> str:
    """The GBNF text for an output format; its start is the rule `root`.

    Args:
        output_format: "json": any JSON object; a JSON schema (2020-12, or older): values that satisfy it, and
            nothing else; "gbnf:" and a grammar: that grammar, unchanged.
    Raises: InvalidSchema: the schema is malformed, can't be satisfied, or can't be guaranteed by a grammar.
    """
    try:
        if output_format == "json":
            return SchemaGrammar({}).render_any_object()
        if isinstance(output_format, str):
            if output_format.startswith(GBNF_PREFIX):
                return output_format[len(GBNF_PREFIX) :]
            raise InvalidSchema("", f'the format is "json" or a JSON schema, not {output_format[:40]!r}')
        return SchemaGrammar(output_format).render(output_format)
    except RecursionError:
        raise InvalidSchema("", "the schema is nested too deeply") from None
