"""Messages and tools in the shapes that Ollama's Go templates know.

Only the fields that Ollama's own types have are there, in their order, so that a printed tool reads the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from node.jobs import Message, ToolCall
from node.prompt.go.values import JsonList, JsonMap, OrderedMap, Struct, TypeNames


def collate(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """All system text, and the messages with those of one role in a row made one (but for tools' results)."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    collated: list[Message] = []
    for message in messages:
        if collated and message.role != "tool" and collated[-1].role == message.role:
            joined = f"{collated[-1].content}\n\n{message.content}"
            collated[-1] = replace(collated[-1], content=joined)
        else:
            collated.append(message)
    return system, collated


def message_value(message: Message) -> Struct:
    """`.Messages` holds these."""
    return Struct(
        "template.templateMessage",
        {
            "Role": message.role,
            "Content": message.content,
            "Thinking": message.thinking,
            "Images": [],
            "ToolCalls": [_call_value(number, call) for number, call in enumerate(message.tool_calls)],
            "ToolName": message.tool_name,
            "ToolCallID": message.tool_call_id,
        },
    )


def _call_value(number: int, call: ToolCall) -> Struct:
    function = {"Index": number, "Name": call.name, "Arguments": JsonMap(call.arguments)}
    return Struct(
        "template.templateToolCall",
        {"ID": call.id, "Function": Struct("template.templateToolCallFunction", function)},
    )


def tool_values(tools: Sequence[dict[str, Any]]) -> JsonList | None:
    """`.Tools`; nil where none are offered."""
    return JsonList(map(_tool_value, tools)) if tools else None


def _tool_value(tool: dict[str, Any]) -> Struct:
    function = tool.get("function")
    function = function if isinstance(function, dict) else {}
    parameters = function.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    properties = parameters.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    shape = {
        "Type": _string(parameters.get("type")),
        "Defs": parameters.get("$defs"),
        "Items": parameters.get("items"),
        "Required": _strings(parameters.get("required")),
        "Properties": JsonMap({name: _property_value(schema) for name, schema in properties.items()}),
    }
    names = {"Type": "type", "Defs": "$defs", "Items": "items", "Required": "required", "Properties": "properties"}
    described = {
        "Name": _string(function.get("name")),
        "Description": _string(function.get("description")),
        "Parameters": Struct(
            "template.templateToolFunctionParameters", shape, _as_json(shape, names, ("Type", "Properties"))
        ),
    }
    whole = {
        "Type": _string(tool.get("type"), "function"),
        "Items": tool.get("items"),
        "Function": Struct(
            "template.templateToolFunction",
            described,
            OrderedMap(zip(("name", "description", "parameters"), described.values(), strict=True)),
        ),
    }
    names = {"Type": "type", "Items": "items", "Function": "function"}
    return Struct("template.templateTool", whole, _as_json(whole, names, ("Type",)))


def _property_value(schema: Any) -> Struct:
    """A parameter's schema, as much of it as Ollama keeps."""
    schema = schema if isinstance(schema, dict) else {}
    kind, anything, properties = schema.get("type"), schema.get("anyOf"), schema.get("properties")
    values = {
        "AnyOf": [_property_value(part) for part in anything] if isinstance(anything, list) else [],
        "Type": TypeNames([kind] if isinstance(kind, str) else _strings(kind)),
        "Items": schema.get("items"),
        "Description": _string(schema.get("description")),
        "Enum": schema["enum"] if isinstance(schema.get("enum"), list) else [],
        "Properties": OrderedMap({name: _property_value(part) for name, part in properties.items()})
        if isinstance(properties, dict)
        else None,
        "Required": _strings(schema.get("required")),
    }
    names = {name: name[0].lower() + name[1:] for name in values}
    return Struct("api.ToolProperty", values, _as_json(values, names, ()))


def _as_json(values: dict[str, Any], names: dict[str, str], always: tuple[str, ...]) -> OrderedMap:
    """The JSON object of a struct: what is empty is left out, but for some fields."""
    return OrderedMap(
        {
            names[field]: value
            for field, value in values.items()
            if field in always or (bool(value) if not isinstance(value, Struct) else True)
        }
    )


def _string(value: Any, default: str = "") -> str:
    return value if isinstance(value, str) else default


def _strings(value: Any) -> list[str]:
    return [part for part in value if isinstance(part, str)] if isinstance(value, list) else []
