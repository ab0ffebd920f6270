"""A training dialogue, and its text as the model's own chat template renders it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from jinja2.sandbox import ImmutableSandboxedEnvironment

Message: TypeAlias = dict[str, Any]

TEMPLATE_TEXT = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8").strip()

# What an assistant turn begins with when the model does not think, as the template has it.
EMPTY_THINKING = "<think>\n\n</think>\n\n"

# What the model is taught to write: everything of an assistant turn but its prompt, with the end-of-turn token.
_TAUGHT = re.compile(r"(?<=<\|im_start\|>assistant\n)(?:<think>\n\n</think>\n\n)?(?P<said>.*?<\|im_end\|>)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages in the template's fields; `sort_tool_keys`: the tools' JSON with sorted keys, as some servers do."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = field(default=())
    sort_tool_keys: bool = False

    def with_system(self, text: str) -> Dialogue:
        """The same dialogue after a system prompt."""
        return replace(self, messages=({"role": "system", "content": text}, *self.messages))


def user(content: str) -> Message:
    """A user's turn."""
    return {"role": "user", "content": content}


def assistant(content: str, thinking: str = "") -> Message:
    """The model's turn."""
    return {"role": "assistant", "content": content, "thinking": thinking}


def _template(*, sort_keys: bool) -> Any:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False, sort_keys=sort_keys)
    return environment.from_string(TEMPLATE_TEXT)


_TEMPLATES = {sort_keys: _template(sort_keys=sort_keys) for sort_keys in (False, True)}


def render(dialogue: Dialogue) -> str:
    """The whole dialogue as text, without a prompt for another turn."""
    text: str = _TEMPLATES[dialogue.sort_tool_keys].render(messages=dialogue.messages, tools=dialogue.tools)
    return text


def taught_spans(text: str) -> list[tuple[int, int]]:
    """Where in a rendered dialogue the model's own words stand, as character ranges."""
    return [match.span("said") for match in _TAUGHT.finditer(text)]
