"""Read fields of a node's answer: the wanted type, or its empty value where the field is missing or something else.

Nodes are both older and newer than this command, so a field it does not understand is a field that is not there.
"""

from __future__ import annotations

from typing import Any


def text_of(fields: dict[str, Any], key: str) -> str:
    """A string, or ""."""
    value = fields.get(key)
    return value if isinstance(value, str) else ""


def count_of(fields: dict[str, Any], key: str) -> int:
    """A positive whole number, or 0."""
    value = fields.get(key)
    return value if isinstance(value, int) and value > 0 else 0


def list_of(fields: dict[str, Any], key: str) -> list[Any]:
    """An array, or an empty one."""
    value = fields.get(key)
    return value if isinstance(value, list) else []


def object_of(fields: dict[str, Any], key: str) -> dict[str, Any]:
    """An object, or an empty one."""
    value = fields.get(key)
    return value if isinstance(value, dict) else {}
