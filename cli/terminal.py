"""What a terminal is told: a spinner while nothing comes, colours, and streamed text wrapped at words.

`WordWrap` is pure; the rest writes to the stream it is given, and nothing at all where that is no terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from types import TracebackType
from typing import Self, TextIO

from cli.text import char_width, text_width

SPINNER_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINNER_PERIOD_S = 0.1
# Characters whose width we and the terminal judge differently must not push a line over its edge.
WRAP_MARGIN = 5
NARROWEST_WRAP = 10
TAB_STOP = 8


class WordWrap:
    """Breaks a stream of text between words although a word's end is not known when its start is shown.

    A word that reaches the edge is taken back from the end of its line and written again on the next one. Line
    breaks of the text itself stay as they are.
    """

    def __init__(self, columns: int) -> None:
        self._limit = columns - WRAP_MARGIN if columns >= NARROWEST_WRAP else 0
        self._column = 0
        self._word = ""  # what has been shown since the last place where the line may break

    def feed(self, text: str) -> str:
        """What to write for the next piece of text; printable text in, the same and cursor movements out."""
        return text if not self._limit else "".join(map(self._show, text))

    def _show(self, char: str) -> str:
        if char == "\n":
            self._column, self._word = 0, ""
            return char
        width = TAB_STOP - self._column % TAB_STOP if char == "\t" else char_width(char)
        if self._column + width <= self._limit:
            self._column += width
            self._word = "" if char in " \t" or width > 1 else self._word + char
            return char
        if char in " \t":  # the break stands for the space
            self._column, self._word = 0, ""
            return "\n"
        word_width = text_width(self._word)
        if word_width == self._column:  # one word fills the line: it has to be cut
            word_width, self._word = 0, ""
        back = f"\x1b[{word_width}D\x1b[K\n{self._word}" if word_width else "\n"
        self._word += char
        self._column = word_width + width
        return back + char


def columns_of(stream: TextIO) -> int:
    """Columns of the terminal behind a stream; 80 where it does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def obeys_escapes(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Style:
    """Escape codes for one stream; all empty where it is no terminal or NO_COLOR asks for none."""

    def __init__(self, stream: TextIO) -> None:
        colours = obeys_escapes(stream) and not os.environ.get("NO_COLOR")
        self.dim, self.heading, self.end = ("\x1b[90m", "\x1b[1;90m", "\x1b[0m") if colours else ("", "", "")


class Spinner:
    """Shows that something is under way, from entering it until `stop` or leaving it."""

    def __init__(self, stream: TextIO, message: str = "") -> None:
        self._stream, self._message = stream, message
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="spinner", daemon=True)

    def __enter__(self) -> Self:
        if obeys_escapes(self._stream):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Wipe it away; more calls do nothing."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _spin(self) -> None:
        frame = 0
        while not self._stopped.wait(SPINNER_PERIOD_S):
            shown = f"{self._message} " if self._message else ""
            self._stream.write(f"\r{shown}{SPINNER_FRAMES[frame % len(SPINNER_FRAMES)]}\x1b[K")
            self._stream.flush()
            frame += 1
        if frame:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def stderr_spinner(message: str = "") -> Spinner:
    """A spinner where it does not mix with what a verb prints."""
    return Spinner(sys.stderr, message)
