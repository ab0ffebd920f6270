"""What decoding bytes from another machine may raise, whichever part reads them."""

from __future__ import annotations

from typing import Final

import msgspec

# Text that is no UTF-8, and nesting without end (in a field that nobody reads, too), are errors of Python's own.
DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
