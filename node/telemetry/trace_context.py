"""Which trace a request belongs to, as W3C Trace Context writes it: `00-<trace id>-<parent's span id>-<flags>`.

Source: https://www.w3.org/TR/trace-context/ (level 1; `tracestate` is not passed on).
"""

from __future__ import annotations

import re
import secrets

_VERSION_00 = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_LATER = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_MAX_CHARS = 256


def parse_traceparent(text: str) -> str:
    """The header's value if it makes sense, in the form of version 00; "": it does not, and is to be ignored."""
    text = text.strip()[:_MAX_CHARS]
    match = (_VERSION_00 if text.startswith("00-") else _LATER).fullmatch(text)
    if match is None or not match[1].strip("0") or not match[2].strip("0"):
        return ""
    return f"00{text[2:55]}"


def new_traceparent() -> str:
    """A trace of our own, so that the log lines of several machines about one request can be found."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"


def trace_id_of(traceparent: str) -> str:
    """Its 32 hex digits; "" of none."""
    return traceparent[3:35]
