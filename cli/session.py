"""A conversation at the interactive prompt: what has been said and chosen so far, and the requests made from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from cli.fields import list_of, object_of, text_of

Think: TypeAlias = bool | str | None
Message: TypeAlias = dict[str, Any]

BLOCK_QUOTES = '"""'


@dataclass(slots=True, kw_only=True)
class Choices:
    """How replies are asked for and shown; flags of `run` set them, `/set` changes them.

    `think` None leaves it to what the model can do; `output_format` is "json", a JSON schema, or None.
    """

    think: Think = None
    output_format: Any = None
    keep_alive: str | int | None = None
    hide_thinking: bool = False
    wrap_words: bool = True
    verbose: bool = False

    def request_fields(self) -> dict[str, Any]:
        """The fields of a request body that say so."""
        chosen = {"format": self.output_format, "keep_alive": self.keep_alive, "think": self.think}
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(slots=True)
class Session:
    """One model and the turns exchanged with it. `own_messages` are the model's, which the node puts first."""

    model: str
    choices: Choices
    think_chosen: bool = False
    parent: str = ""
    own_messages: list[Message] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    system: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    keeps_history: bool = True

    def adopt(self, shown: dict[str, Any]) -> None:
        """Learn about the model from its description; it thinks if it can, unless the person chose."""
        self.parent = text_of(object_of(shown, "details"), "parent_model")
        self.own_messages = [message for message in list_of(shown, "messages") if isinstance(message, dict)]
        if not self.think_chosen:
            self.choices.think = True if "thinking" in list_of(shown, "capabilities") else None

    def set_system(self, text: str) -> None:
        """Say what the model shall be from here on; said twice in a row, the latter counts."""
        self.system = text
        if self.messages and self.messages[-1]["role"] == "system":
            self.messages.pop()
        self.messages.append({"role": "system", "content": text})

    def clear(self) -> None:
        """Forget the turns, not the system message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def ask(self, text: str) -> None:
        """The person's turn."""
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str, thinking: str) -> None:
        """The model's turn, whole or as far as it came; without any text the question is taken back."""
        if text:
            self.messages.append({"role": "assistant", "content": text} | ({"thinking": thinking} if thinking else {}))
        else:
            self.messages.pop()

    def chat_body(self) -> dict[str, Any]:
        """The request for the model's next turn."""
        options = {"options": self.options} if self.options else {}
        return {"model": self.model, "messages": self.messages} | options | self.choices.request_fields()

    def create_body(self, name: str) -> dict[str, Any]:
        """The request that saves this session as a model."""
        body = {
            "model": name,
            "from": self.parent or self.model,
            "system": self.system,
            "parameters": self.options,
            "messages": [*self.own_messages, *self.messages],
        }
        return {key: value for key, value in body.items() if value}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a person has entered, once it is complete."""

    kind: Literal["message", "system", "command"]
    text: str


class EntryReader:
    """Puts lines together into entries: a block between triple quotes is one, whatever lines it has."""

    def __init__(self) -> None:
        self._kind: Literal["message", "system"] | None = None
        self._lines: list[str] = []

    @property
    def within_block(self) -> bool:
        """Whether the closing quotes are still to come."""
        return self._kind is not None

    def reset(self) -> None:
        """Throw away an unfinished block."""
        self._kind, self._lines = None, []

    def feed(self, line: str) -> Entry | None:
        """The entry that this line completes; None: it is empty, or a block goes on."""
        if self._kind is not None:
            return self._continue(line)
        words = line.split(maxsplit=2)
        if line.startswith(BLOCK_QUOTES):
            self._kind = "message"
            return self._continue(line.removeprefix(BLOCK_QUOTES))
        if len(words) == 3 and words[:2] == ["/set", "system"]:
            if not words[2].startswith(BLOCK_QUOTES):
                return Entry("system", words[2].rstrip())
            self._kind = "system"
            return self._continue(words[2].removeprefix(BLOCK_QUOTES))
        if not words:
            return None
        return Entry("command" if line.startswith("/") else "message", line)

    def _continue(self, line: str) -> Entry | None:
        assert self._kind is not None
        self._lines.append(line.removesuffix(BLOCK_QUOTES))
        if not line.endswith(BLOCK_QUOTES):
            return None
        entry = Entry(self._kind, "\n".join(self._lines))
        self.reset()
        return entry if entry.text.strip() else None
