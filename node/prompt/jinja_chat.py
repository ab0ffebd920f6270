"""Render a chat with a model's own Jinja template, the way Hugging Face models expect it.

A template sees `messages`, `tools`, `bos_token`, `eos_token`, `add_generation_prompt` and, under each of the names
in use, how much to think. Templates differ in what they take, so a refusal is tried again in the other known shape
before it is reported, as llama.cpp does: a system message joined to the user's first one, arguments of tool calls
as JSON text, no tools as an empty list, content as a list of parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, TypeAlias

from node.jobs import Chat, Message, Think
from node.prompt.errors import TemplateError
from node.prompt.sandbox import JinjaTemplate, Refused
from node.prompt.thinking import ThinkingTags
from node.prompt.tool_calls import CallSyntax, syntax_in_template

Values: TypeAlias = dict[str, Any]

# Ways to mark reasoning that are plain tags around it; the first whose two tags are both in a template is its own.
KNOWN_THINKING = (
    ThinkingTags("<think>", "</think>"),
    ThinkingTags("[THINK]", "[/THINK]"),
    ThinkingTags("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkingTags("<seed:think>", "</seed:think>"),
    ThinkingTags("<thinking>", "</thinking>"),
    ThinkingTags("<reasoning>", "</reasoning>"),
)


class JinjaChat:
    """One model's Jinja template with its special tokens. Raises TemplateError where it can't be compiled."""

    supports_infill = False

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        self._template = JinjaTemplate(source)
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self.supports_tools = "tools" in source or "tool_call" in source
        self.thinking_tags = _thinking_tags(source)
        self.call_syntax: CallSyntax = syntax_in_template(source)
        self._typed_content = self._wants_typed_content()

    def render(self, chat: Chat, think: Think, now: datetime) -> str:
        """The prompt for the next turn; a last assistant message without calls is left open, to be continued."""
        messages = list(chat.messages)
        prefill = messages.pop() if len(messages) > 1 and _continues(messages[-1]) else None
        values: Values = {
            **self._tokens,
            "messages": [_message(message, typed=self._typed_content) for message in messages],
            "tools": [_tool(tool) for tool in chat.tools] or None,
            "add_generation_prompt": True,
            **_thinking_arguments(think),
        }
        failure = TemplateError("the chat template refused the messages")
        for number, shaped in enumerate((values, *_other_shapes(values))):
            try:
                prompt = self._run(shaped, now)
            except TemplateError as error:
                # The first refusal names what the template really minds.
                failure = failure if number else error
                continue
            return prompt + self._opened(prefill, prompt) if prefill else prompt
        raise failure

    def _run(self, values: Values, now: datetime) -> str:
        size = sum(_chars(value) for value in values.values())
        try:
            return self._template.render(values, now=now, input_chars=size)
        except Refused as refusal:
            raise TemplateError(str(refusal)) from None

    def _opened(self, message: Message, prompt: str) -> str:
        """What follows the generation prompt when the reply is begun for the model."""
        tags = self.thinking_tags
        if tags is None:
            return message.content
        if prompt.rstrip().endswith(tags.opening):
            thinking = message.thinking
        elif message.thinking:
            thinking = f"{tags.opening}\n{message.thinking}"
        else:
            return message.content
        return f"{thinking}\n{tags.closing}\n\n{message.content}"

    def _wants_typed_content(self) -> bool:
        """Whether the template prints a message only where its content is a list of parts."""
        probe = Message(role="user", content="probe-of-content")
        return not self._prints(probe, typed=False) and self._prints(probe, typed=True)

    def _prints(self, probe: Message, *, typed: bool) -> bool:
        values: Values = {**self._tokens, "add_generation_prompt": True, "tools": None}
        values["messages"] = [_message(probe, typed=typed)]
        try:
            return probe.content in self._run(values, datetime.min)
        except TemplateError:
            return False


def _continues(message: Message) -> bool:
    return message.role == "assistant" and not message.tool_calls


def _thinking_tags(source: str) -> ThinkingTags | None:
    for tags in KNOWN_THINKING:
        if tags.closing in source and tags.opening in source:
            return tags
    # Templates that only strip earlier reasoning show the closing tag alone.
    return KNOWN_THINKING[0] if KNOWN_THINKING[0].closing in source else None


def _thinking_arguments(think: Think) -> Values:
    """Each name that templates have for it; absent where the model is to do as it does by default."""
    if think is None:
        return {}
    values: Values = {"enable_thinking": bool(think), "thinking": bool(think)}
    if isinstance(think, str):
        # The words that templates know end at "high".
        values["reasoning_effort"] = "high" if think == "max" else think
    return values


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return tool if "function" in tool else {"type": "function", "function": tool}


def _message(message: Message, *, typed: bool) -> Values:
    """A message as OpenAI's API writes it; keys without a value are absent."""
    value: Values = {
        "role": message.role,
        "content": [{"type": "text", "text": message.content}] if typed else message.content,
    }
    if message.thinking:
        value |= {"reasoning_content": message.thinking, "thinking": message.thinking}
    if message.tool_calls:
        value["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_name:
        value |= {"name": message.tool_name, "tool_name": message.tool_name}
    if message.tool_call_id:
        value["tool_call_id"] = message.tool_call_id
    return value


def _other_shapes(values: Values) -> Iterator[Values]:
    """What a template might have meant instead."""
    messages = values["messages"]
    if messages and messages[0]["role"] == "system":
        yield values | {"messages": _system_joined(messages)}
    if any("tool_calls" in message for message in messages):
        yield values | {"messages": [_with_text_arguments(message) for message in messages]}
    if values["tools"] is None:
        yield values | {"tools": []}


def _system_joined(messages: list[Values]) -> list[Values]:
    first, *rest = messages
    if not rest:
        return [first | {"role": "user"}]
    before, after = first["content"], rest[0]["content"]
    both = [*before, *after] if isinstance(before, list) else f"{before}\n{after}"
    return [rest[0] | {"content": both}, *rest[1:]]


def _with_text_arguments(message: Values) -> Values:
    if "tool_calls" not in message:
        return message
    return message | {"tool_calls": [_with_text(call) for call in message["tool_calls"]]}


def _with_text(call: Values) -> Values:
    text = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return call | {"function": call["function"] | {"arguments": text}}


def _chars(value: Any) -> int:
    """Length of the text in a JSON-like value, and one for everything else."""
    if isinstance(value, str):
        return len(value) + 1
    if isinstance(value, dict):
        return sum(len(key) + _chars(part) for key, part in value.items())
    if isinstance(value, list):
        return sum(map(_chars, value))
    return 1
