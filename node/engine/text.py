"""Turn token bytes into text that is safe to send: whole characters only, and nothing of a stop string.

Pure and incremental: the pieces of any chunking give the same text.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class StopFilter:
    """Pass text through until a stop string appears; hold back what may be the beginning of one.

    Of several stop strings the one complete first wins (of those, the longest), and the text ends before it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(s for s in stops if s)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Return the text that can be sent now; after a stop string, nothing more ever."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        self._held = ""
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)[1]]
        held = self._partial_match(text)
        if held:
            self._held = text[-held:]
            return text[:-held]
        return text

    def finish(self) -> str:
        """Return what was held back: no stop string came of it."""
        held, self._held = self._held, ""
        return "" if self.stopped else held

    def _partial_match(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


class TokenText:
    """The text of one generation: UTF-8 assembled across tokens, cut at the first stop string."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._filter = StopFilter(stops)

    @property
    def stopped(self) -> bool:
        """A stop string has appeared; the generation is over."""
        return self._filter.stopped

    def feed(self, piece: bytes) -> str:
        """Add one token's bytes; return the text that became certain."""
        return self._filter.feed(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return held-back text. A character whose last bytes never came is dropped."""
        return self._filter.finish()
