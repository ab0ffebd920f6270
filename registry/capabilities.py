"""What a model can do, in Ollama's words: a pure function of its facts and its template.

Source: Ollama's rules (server/images.go): a template that names the tools, the suffix or the thinking can use
them; a model that says how to pool embeds instead of completing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from registry.gguf_facts import GgufFacts

_GO_ACTION: Final = re.compile(r"\{\{-?(.*?)-?\}\}", re.DOTALL)
_SPLITS_THINKING: Final = re.compile(r"""content\.split\((['"])</think>\1\)""")


def capabilities_of(
    facts: GgufFacts, *, template: str | None, has_projector: bool = False, declared: Sequence[str] = ()
) -> tuple[str, ...]:
    """The capabilities, each once, in Ollama's order.

    Args:
        template: TEMPLATE of the Modelfile, Go or Jinja; None: the chat template in the GGUF counts.
        declared: what the config blob says by itself.
    """
    found = list(declared)
    found.append("embedding" if facts.is_embedding else "completion")
    if has_projector or facts.of_architecture("vision.block_count") is not None:
        found.append("vision")
    if facts.of_architecture("audio.block_count") is not None:
        found.append("audio")
    if not facts.is_embedding:
        found += _template_capabilities(facts.chat_template if template is None else template)
        if facts.fill_in_middle:
            found.append("insert")
    return tuple(dict.fromkeys(found))


def _template_capabilities(template: str | None) -> list[str]:
    if not template:
        return []
    if is_go_template(template):
        actions = " ".join(_GO_ACTION.findall(template))
        named = {"tools": ".Tools", "insert": ".Suffix", "thinking": ".Thinking"}
        return [word for word, field in named.items() if re.search(re.escape(field) + r"\b", actions)]
    found = []
    if "tools" in template or "tool_call" in template:
        found.append("tools")
    has_tags = "<think>" in template and "</think>" in template
    strips_tags = bool(_SPLITS_THINKING.search(template)) and "reasoning_content" not in template
    if has_tags or strips_tags:
        found.append("thinking")
    return found


def is_go_template(template: str) -> bool:
    """Whether a template is in Go's language: its actions name fields of the dot (`{{ .Prompt }}`)."""
    if "{%" in template:
        return False
    return any(re.search(r"(?:^|[\s(])\.(?:[A-Z]|\s|$)", action) for action in _GO_ACTION.findall(template))
