"""How much work a template may do: deterministic units, and a wall clock behind them for what they miss."""

from __future__ import annotations

import time

from node.prompt.errors import TemplateError

# Real templates are at most about 100 kB, and spend a few units for every character that they print.
MAX_TEMPLATE_CHARS = 1 << 20
BASE_UNITS = 1 << 20
UNITS_PER_CHAR = 256
MAX_SECONDS = 10.0


class Budget:
    """What one rendering may still spend; it grows with the length of the text that goes in."""

    def __init__(self, input_chars: int = 0, *, seconds: float = MAX_SECONDS) -> None:
        self._left = BASE_UNITS + UNITS_PER_CHAR * input_chars
        self._deadline = time.monotonic() + seconds

    def spend(self, units: int) -> None:
        """Raises TemplateError where the template has had its share."""
        self._left -= units
        if self._left < 0 or time.monotonic() > self._deadline:
            raise TemplateError("the chat template does too much work")
