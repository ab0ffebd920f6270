"""Split what a model writes into its reasoning and its answer, piece by piece.

Only a section at the very start counts, as in Ollama: later tags are ordinary text. White space around the
tags belongs to neither side. Which tags a template uses is decided by `node.prompt.template`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["before", "inside", "after", "content"]


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """What surrounds a model's reasoning, such as `<think>` and `</think>`."""

    opening: str
    closing: str


def overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that is a proper or whole beginning of `tag`."""
    return next((n for n in range(min(len(text), len(tag)), 0, -1) if text.endswith(tag[:n])), 0)


class ThinkingSplitter:
    """Incremental: `feed` returns (thinking, content) as soon as each is certain.

    Args:
        tags: what to look for; None: everything is content.
        start: "inside" where the prompt ends with the opening tag, "content" where no section can come any
            more, else "before".
        keep: False: the model was told not to think. An empty section is dropped; one that does hold text is
            left in the content, tags and all, rather than silently lost.
    """

    def __init__(self, tags: ThinkingTags | None, *, start: State = "before", keep: bool = True) -> None:
        self._tags = tags
        self._state: State = start if tags else "content"
        self._keep = keep
        self._held = ""
        # White space after the opening tag is dropped, but only until the first thought.
        self._leading = True

    @property
    def over(self) -> bool:
        """Whether the content has begun: no thinking, and no white space that belongs to neither, can follow."""
        return self._state == "content"

    @property
    def tag_rest(self) -> str:
        """What completes the tag that has begun, or the closing tag while thinking; "" where neither is due."""
        if self._tags is None or self.over:
            return ""
        if self._state == "inside":
            return self._tags.closing[overlap(self._held, self._tags.closing) :]
        begun = self._held.lstrip() if self._state == "before" else ""
        return self._tags.opening[len(begun) :] if begun and self._tags.opening.startswith(begun) else ""

    def feed(self, text: str) -> tuple[str, str]:
        """Take more output; returns what is certain by now."""
        self._held += text
        thinking = content = ""
        while True:
            before = (self._state, len(self._held))
            more_thinking, more_content = self._step()
            thinking += more_thinking
            content += more_content
            if (self._state, len(self._held)) == before:
                return thinking, content

    def finish(self) -> tuple[str, str]:
        """The output has ended: what was held back is what it looked like."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "inside" else ("", "" if self._state == "after" else held)

    def _step(self) -> tuple[str, str]:
        """Consume one part of the held text, or leave everything as it is to wait for more."""
        if self._state == "content":
            text, self._held = self._held, ""
            return "", text
        assert self._tags is not None
        if self._state == "before":
            return "", self._look_for_opening(self._tags)
        if self._state == "inside":
            return self._think(self._tags.closing), ""
        self._held = self._held.lstrip()
        if self._held:
            self._state = "content"
        return "", ""

    def _look_for_opening(self, tags: ThinkingTags) -> str:
        text = self._held.lstrip()
        if text.startswith(tags.opening):
            if self._keep:
                self._state, self._held = "inside", text[len(tags.opening) :]
                return ""
            rest = text[len(tags.opening) :].lstrip()
            if rest.startswith(tags.closing):
                self._state, self._held = "after", rest[len(tags.closing) :]
                return ""
            if tags.closing.startswith(rest):
                return ""
        elif tags.opening.startswith(text):
            return ""
        self._state = "content"
        return ""

    def _think(self, closing: str) -> str:
        if self._leading:
            self._held = self._held.lstrip()
            self._leading = not self._held
        thought, found, rest = self._held.partition(closing)
        if found:
            self._state, self._held = "after", rest
            return thought
        waiting = overlap(self._held, closing)
        thought = self._held[: len(self._held) - waiting]
        self._held = self._held[len(thought) :]
        return thought
