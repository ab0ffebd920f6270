"""Times as the APIs write them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

NS = 10**9
# What Ollama, whose times are Go's, shows for a model that is never unloaded: 2^63 ns from now.
FOREVER = datetime(2318, 1, 1, tzinfo=UTC)

_second = -1
_prefix = ""


def now_text() -> str:
    """The time in RFC 3339, UTC, in microseconds: called once for each token, so the slow part is kept."""
    global _second, _prefix
    second, rest_ns = divmod(time.time_ns(), NS)
    if second != _second:
        _second, _prefix = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{_prefix}.{rest_ns // 1000:06d}Z"


def time_text(moment: datetime) -> str:
    """An aware moment in RFC 3339, UTC."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
