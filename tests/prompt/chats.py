"""Shorthands for chats."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from node.jobs import Chat, Message, ToolCall
from node.prompt import OutputParser, Parsed

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str = "", *calls: ToolCall, thinking: str = "") -> Message:
    return Message(role="assistant", content=text, tool_calls=calls, thinking=thinking)


def tool(name: str, **properties: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "description": "does it", "parameters": schema}}


def chat(*messages: Message, **options: Any) -> Chat:
    return Chat(messages=messages, **options)


def read(parser: OutputParser, *pieces: str) -> Parsed:
    """All that a parser says about a reply."""
    parts = [*map(parser.feed, pieces), parser.finish()]
    return Parsed(
        "".join(part.text for part in parts),
        "".join(part.thinking for part in parts),
        tuple(call for part in parts for call in part.tool_calls),
    )
