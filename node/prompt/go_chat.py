"""Render a chat with a Go template, by Ollama's rules.

A template that names `.Messages` gets the whole conversation at once. An older one knows `.System`, `.Prompt` and
`.Response`, and is run once per exchange; the last time, everything after `.Response` is left out, so that the
model goes on from there. A template that names neither gets `.Response` added at its end.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from node.jobs import Chat, Infill, Message, Think
from node.prompt.budget import Budget
from node.prompt.go import NAMES, Template, execute, parse
from node.prompt.go.nodes import Action, Command, Field, If, Nodes, Pipe, Range, Text, With, pipes
from node.prompt.go_values import collate, message_value, tool_values
from node.prompt.thinking import ThinkingTags
from node.prompt.tool_calls import CallSyntax, syntax_for_tag

RESPONSE = Action(Pipe(0, (), False, (Command((Field(("Response",)),)),)))


class GoChat:
    """One model's Go template. Raises TemplateError where it can't be parsed."""

    def __init__(self, source: str) -> None:
        template = parse(source, NAMES)
        names = {name.lower() for name in template.names()}
        if not names & {"messages", "response"}:
            template = Template((*template.root, RESPONSE), template.defined)
        self._template = template
        self._takes_messages = "messages" in names
        self._last_turn = Template(_up_to_response(template.root)[0], template.defined)
        self.supports_tools = "tools" in names
        self.supports_infill = "suffix" in names
        self.thinking_tags = thinking_tags(template.root)
        self.call_syntax: CallSyntax = syntax_for_tag(tool_tag(template.root))

    def render(self, chat: Chat, think: Think, now: datetime) -> str:
        """The prompt for the next turn."""
        system, messages = collate(chat.messages)
        thinking = {
            "Think": bool(think),
            "ThinkLevel": think if isinstance(think, str) else "",
            "IsThinkSet": think is not None,
        }
        budget = Budget(sum(len(message.content) + len(message.thinking) + 64 for message in messages) + 1024)
        if not self._takes_messages:
            return self._render_exchanges(messages, thinking, now, budget)
        data = {
            "System": system,
            "Messages": [message_value(message) for message in messages],
            "Tools": tool_values(chat.tools),
            "Response": "",
        }
        return execute(self._template, data | thinking, now=now, budget=budget)

    def render_infill(self, infill: Infill) -> str:
        """The prompt for text between two others."""
        data = {"Prompt": infill.prefix, "Suffix": infill.suffix, "Response": "", "Think": False}
        data |= {"ThinkLevel": "", "IsThinkSet": False}
        budget = Budget(len(infill.prefix) + len(infill.suffix))
        return execute(self._template, data, now=datetime.min, budget=budget)

    def _render_exchanges(
        self, messages: list[Message], thinking: dict[str, Any], now: datetime, budget: Budget
    ) -> str:
        """Once per exchange: a message that can't belong to the one at hand begins the next."""
        printed = ""
        exchange = {"System": "", "Prompt": "", "Response": ""}
        for message in messages:
            slot = {"system": "System", "user": "Prompt", "assistant": "Response"}.get(message.role)
            if slot is None:
                continue
            later = {"System": ("Prompt", "Response"), "Prompt": ("Response",), "Response": ()}[slot]
            if any(exchange[name] for name in later):
                printed += execute(self._template, exchange | thinking, now=now, budget=budget)
                exchange = dict.fromkeys(exchange, "")
            exchange[slot] = message.content
        return printed + execute(self._last_turn, exchange | thinking, now=now, budget=budget)


def _up_to_response(body: Nodes) -> tuple[Nodes, bool]:
    """Nodes up to the one that prints `.Response`, and whether there was one."""
    kept: list[Any] = []
    for node in body:
        cut = False
        if isinstance(node, Action):
            kept.append(node)
            cut = _mentions(node.pipe, "Response")
        elif isinstance(node, If | With | Range):
            inside, cut = _up_to_response(node.body)
            otherwise: Nodes = ()
            if not cut:
                otherwise, cut = _up_to_response(node.otherwise)
            kept.append(type(node)(node.pipe, inside, otherwise))
        else:
            kept.append(node)
        if cut:
            return tuple(kept), True
    return tuple(kept), False


def _mentions(pipe: Pipe, name: str) -> bool:
    """Whether a field of this name is an operand of the pipeline itself."""
    return any(isinstance(arg, Field) and name in arg.names for command in pipe.commands for arg in command.args)


def thinking_tags(root: Nodes) -> ThinkingTags | None:
    """What a template prints around a message's `.Thinking`: the first and last text of the block it is in.

    Source: Ollama's heuristic of the same purpose; only a `.Thinking` within a `range` over `.Messages` counts.
    """
    found = {"opening": "", "closing": ""}
    _find_thinking(root, False, found)
    return ThinkingTags(**found) if all(found.values()) else None


def _find_thinking(body: Nodes, in_messages: bool, found: dict[str, str]) -> None:
    for node in body:
        own = next(pipes((node,)), None)
        starts = own is not None and any(
            isinstance(arg, Field) and arg.names[0] == "Thinking" for command in own.commands for arg in command.args
        )
        if in_messages and starts:
            if isinstance(body[0], Text):
                found["opening"] = body[0].text.strip()
            if isinstance(body[-1], Text):
                found["closing"] = body[-1].text.strip()
        if isinstance(node, If | With | Range):
            within = in_messages
            if isinstance(node, Range):
                within = _mentions(node.pipe, "Messages")
            _find_thinking(node.body, within, found)
            _find_thinking(node.otherwise, within, found)


def tool_tag(root: Nodes) -> str:
    """What a template prints before the calls of a message: the first text under its `if .ToolCalls`.

    "{" where that is JSON at once. Source: Ollama's heuristic of the same purpose.
    """
    branch = _find_tool_calls(root)
    text = _first_text(branch.body) if branch else None
    return (text or "").partition("{")[0].strip() or "{"


def _find_tool_calls(body: Nodes) -> If | None:
    for node in body:
        if isinstance(node, If) and _mentions(node.pipe, "ToolCalls"):
            return node
        if isinstance(node, If | With | Range):
            found = _find_tool_calls(node.body) or _find_tool_calls(node.otherwise)
            if found:
                return found
    return None


def _first_text(body: Nodes) -> str | None:
    """The first text that is not blank, unless an action prints something before it."""
    for node in body:
        if isinstance(node, Text) and node.text.strip():
            return node.text
        if isinstance(node, If | With | Range):
            return _first_text(node.body) or _first_text(node.otherwise)
        if isinstance(node, Action):
            return None
    return None
