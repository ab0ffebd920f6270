"""What a model wrote, as thinking, text and tool calls: the two splitters in a row.

Pure and incremental: any way of cutting the same output into pieces gives the same whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.jobs import ToolCall
from node.prompt.thinking import ThinkingSplitter
from node.prompt.tool_calls import ToolCallScanner


@dataclass(frozen=True, slots=True)
class Parsed:
    """What has become certain since the last call."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class OutputParser:
    """Reads one reply. `markers` are the texts it looks for.

    Some vocabularies make these texts control tokens, which are not normally shown: whoever turns tokens into
    text must show those whose text occurs in a marker.
    """

    def __init__(self, thinking: ThinkingSplitter, calls: ToolCallScanner | None, markers: tuple[str, ...]) -> None:
        self._thinking = thinking
        self._calls = calls
        self.markers = markers

    @property
    def answering(self) -> bool:
        """Whether the answer has begun."""
        return self._thinking.over

    @property
    def tag_rest(self) -> str:
        """See `ThinkingSplitter.tag_rest`."""
        return self._thinking.tag_rest

    def feed(self, text: str) -> Parsed:
        """Take more output; returns what is certain by now."""
        thinking, content = self._thinking.feed(text)
        if self._calls is None:
            return Parsed(content, thinking)
        content, calls = self._calls.feed(content)
        return Parsed(content, thinking, calls)

    def finish(self) -> Parsed:
        """The output has ended: release whatever was held back."""
        thinking, content = self._thinking.finish()
        if self._calls is None:
            return Parsed(content, thinking)
        content, calls = self._calls.feed(content)
        more, more_calls = self._calls.finish()
        return Parsed(content + more, thinking, calls + more_calls)
