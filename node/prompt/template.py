"""From a chat to prompt text with the model's template, and from the model's text back to a message.

A template is in one of two languages: Jinja, as in GGUF files, or Go's text/template, as in Ollama's Modelfiles.
It is Jinja if it holds `{%` or `{#`, which Go knows nothing of, and Go otherwise: a Jinja chat template without a
statement could not even loop over the messages. A model without any template gets Ollama's `{{ .Prompt }}`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol, Self

import msgspec

from node.jobs import Chat, Infill, Message, Think
from node.prompt.go import NAMES, parse
from node.prompt.go_chat import GoChat
from node.prompt.jinja_chat import JinjaChat
from node.prompt.output import OutputParser
from node.prompt.sandbox import JinjaTemplate
from node.prompt.thinking import State, ThinkingSplitter, ThinkingTags
from node.prompt.tool_calls import CallSyntax, ToolCallScanner

DEFAULT_TEMPLATE = "{{ .Prompt }}"
# Requests may bring a template of their own; a few compiled ones are kept.
KEPT_TEMPLATES = 8


class ChatLanguage(Protocol):
    """A compiled template in either language."""

    supports_tools: bool
    supports_infill: bool
    thinking_tags: ThinkingTags | None
    call_syntax: CallSyntax

    def render(self, chat: Chat, think: Think, now: datetime) -> str:
        """The prompt for the next turn. Raises TemplateError."""


class PromptTemplate:
    """A model's way to write prompts. Immutable; rendering depends on the arguments alone."""

    def __init__(self, default: ChatLanguage, compile_own: Callable[[str], ChatLanguage]) -> None:
        self._default = default
        self._compile = compile_own

    @classmethod
    def load(cls, template: str | None, gguf_chat_template: str | None, *, bos: str, eos: str) -> Self:
        """Compile the Modelfile's template, else the GGUF's.

        Args:
            bos, eos: text of those tokens, for Jinja templates that write them.
        Raises: TemplateError: the template is malformed; the message says where.
        """

        @lru_cache(maxsize=KEPT_TEMPLATES)
        def compile_template(source: str) -> ChatLanguage:
            return JinjaChat(source, bos=bos, eos=eos) if is_jinja(source) else GoChat(source)

        return cls(compile_template(template or gguf_chat_template or DEFAULT_TEMPLATE), compile_template)

    @property
    def supports_tools(self) -> bool:
        """Whether the template tells the model of tools."""
        return self._default.supports_tools

    @property
    def supports_thinking(self) -> bool:
        """Whether the template shows how the model marks its reasoning."""
        return self._default.thinking_tags is not None

    @property
    def supports_infill(self) -> bool:
        """Whether the template has a branch for a suffix."""
        return self._default.supports_infill

    def render(self, chat: Chat, *, now: datetime) -> str:
        """The prompt for the next turn; `now` is what a template that tells the date tells.

        Raises: TemplateError: the template fails on these messages, or refuses them.
        """
        language = self._language(chat)
        return language.render(chat, _think(chat.think, language), now)

    def render_infill(self, infill: Infill) -> str | None:
        """The prompt for text between two others; None where the template has no branch for it."""
        language = self._compile(infill.template) if infill.template else self._default
        return language.render_infill(infill) if isinstance(language, GoChat) and language.supports_infill else None

    def output_parser(self, chat: Chat, prompt: str | None = None) -> OutputParser:
        """A parser for the reply to `chat`; `prompt` is what `render` gave for it (rendered anew where absent)."""
        language = self._language(chat)
        think = _think(chat.think, language)
        if prompt is None:
            prompt = language.render(chat, think, datetime(2000, 1, 1, tzinfo=UTC))
        tags = language.thinking_tags
        start = _start(tags, chat.messages[-1] if chat.messages else None, prompt)
        thinking = ThinkingSplitter(tags, start=start, keep=bool(think))
        scanner = None
        markers: tuple[str, ...] = (tags.opening, tags.closing) if tags else ()
        if chat.tools:
            syntax = language.call_syntax
            salt = hashlib.sha256(msgspec.msgpack.encode(chat.messages)).digest()
            scanner = ToolCallScanner(syntax, chat.tools, salt)
            markers += (*syntax.opening, *filter(None, [syntax.closing]))
        return OutputParser(thinking, scanner, markers)

    def _language(self, chat: Chat) -> ChatLanguage:
        return self._compile(chat.template) if chat.template else self._default


def check_syntax(template: str) -> None:
    """See whether a template can be parsed; none of it is run. Raises TemplateError, which says what is wrong."""
    if is_jinja(template):
        JinjaTemplate(template)
    else:
        parse(template, NAMES)


def is_jinja(template: str) -> bool:
    """Whether a template is Jinja rather than Go's text/template (see the module's docstring)."""
    return "{%" in template or "{#" in template


def _think(think: Think, language: ChatLanguage) -> Think:
    """A model that can think does so unless it is told not to, as in Ollama."""
    return True if think is None and language.thinking_tags is not None else think


def _start(tags: ThinkingTags | None, last: Message | None, prompt: str) -> State:
    """Where in its reply the model is when it begins to write."""
    if tags is not None and prompt.rstrip().endswith(tags.opening):
        return "inside"
    begun = last is not None and last.role == "assistant" and (last.content or last.thinking)
    return "content" if begun else "before"
