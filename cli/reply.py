"""Show one streamed reply, of /api/chat or /api/generate alike, as it comes; and its timings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TextIO

from cli.client import Client
from cli.errors import ConnectionLost
from cli.fields import count_of, list_of, object_of, text_of
from cli.terminal import Style, WordWrap, columns_of, obeys_escapes, stderr_spinner
from cli.text import cell, go_duration, printable


@dataclass(slots=True)
class Reply:
    """What a model has said so far. `last` is the stream's latest event, with the counts once it is `complete`."""

    text: str = ""
    thinking: str = ""
    last: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether the model has finished by itself."""
        return self.last is not None and self.last.get("done") is True


class ReplyPrinter:
    """Writes a reply's parts to a stream: thinking apart from the answer, made safe and wrapped on a terminal."""

    def __init__(self, out: TextIO, *, wrap_words: bool, hide_thinking: bool) -> None:
        self.hide_thinking = hide_thinking
        self._out, self._style = out, Style(out)
        self._is_terminal = out.isatty()
        self._columns = columns_of(out) if wrap_words and obeys_escapes(out) else 0
        self._wrap = WordWrap(self._columns)
        self._thinking_open, self._thinking_ends_line = False, True

    def show_thinking(self, text: str) -> None:
        """More of the model's reasoning."""
        if not text or self.hide_thinking:
            return
        if not self._thinking_open:
            self._out.write(f"{self._style.heading}Thinking...\n{self._style.end}{self._style.dim}")
            self._thinking_open = True
        self._thinking_ends_line = text.endswith("\n")
        self._write(text)

    def show_text(self, text: str) -> None:
        """More of the answer."""
        if text:
            self._end_thinking()
            self._write(text)

    def show_tool_calls(self, calls: Iterable[Any]) -> None:
        """Calls of functions: nobody offered any here, so they are only named."""
        for call in calls:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                self._end_thinking()
                name, arguments = cell(str(function.get("name"))), json.dumps(function.get("arguments"))
                self._out.write(f"  Model called a non-existent function '{name}()' with arguments: {arguments}\n")

    def flush(self) -> None:
        """Let the reader see what has been written."""
        self._out.flush()

    def finish(self) -> None:
        """Leave the terminal as it was, also after a reply that was stopped while thinking."""
        if self._thinking_open:
            self._out.write(self._style.end)
        self._out.flush()

    def _end_thinking(self) -> None:
        if self._thinking_open:
            line_end = "" if self._thinking_ends_line else "\n"
            self._out.write(f"{line_end}{self._style.end}{self._style.heading}...done thinking.{self._style.end}\n\n")
            self._thinking_open = False
            self._wrap = WordWrap(self._columns)

    def _write(self, text: str) -> None:
        # A file or a pipe gets the model's text as it is; a terminal would obey what looks like a command to it.
        self._out.write(self._wrap.feed(printable(text)) if self._is_terminal else text)


def stream_reply(client: Client, path: str, body: dict[str, Any], printer: ReplyPrinter, reply: Reply) -> None:
    """Ask for a reply and show it, filling `reply`, which therefore holds what came when this raises.

    Raises: KeyboardInterrupt: the request has been cancelled. CommandError: as `Client.stream`; ConnectionLost
        also when the stream ends before the model did.
    """
    with stderr_spinner() as spinner, closing(client.stream(path, body)) as events:
        try:
            for event in events:
                reply.last = event
                part = object_of(event, "message") or event
                thinking, text = text_of(part, "thinking"), text_of(part, "content") or text_of(part, "response")
                calls = list_of(part, "tool_calls")
                if text or calls or (thinking and not printer.hide_thinking):
                    spinner.stop()
                reply.thinking += thinking
                reply.text += text
                printer.show_thinking(thinking)
                printer.show_text(text)
                printer.show_tool_calls(calls)
                printer.flush()
        finally:
            spinner.stop()
            printer.finish()
    if not reply.complete:
        raise ConnectionLost("the node closed the connection before the reply was complete")


def timings(last: dict[str, Any]) -> str:
    """The lines of --verbose for a reply's last event; counts and times it lacks are left out."""
    lines = [
        f"{label + ':':<22}{go_duration(count_of(last, key))}"
        for label, key in (("total duration", "total_duration"), ("load duration", "load_duration"))
        if count_of(last, key)
    ]
    for label in ("prompt eval", "eval"):
        key = label.replace(" ", "_")
        count, duration_ns = count_of(last, f"{key}_count"), count_of(last, f"{key}_duration")
        if count:
            lines.append(f"{label + ' count:':<22}{count} token(s)")
        if duration_ns:
            lines.append(f"{label + ' duration:':<22}{go_duration(duration_ns)}")
            lines.append(f"{label + ' rate:':<22}{count * 1e9 / duration_ns:.2f} tokens/s")
    return "".join(f"{line}\n" for line in lines)
