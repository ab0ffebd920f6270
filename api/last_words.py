"""What the end of a streamed answer adds: what happened to it after its first bytes can't be in a header any more."""

from __future__ import annotations

from typing import Any

from node.route_trace import ROUTE_TRACE


def last_words() -> dict[str, Any]:
    """Fields that say that another node had to go on with it, if one had to."""
    if (trace := ROUTE_TRACE.get()) is None or not trace.resumed:
        return {}
    return {"ayni": {"route": trace.route, "resumed": trace.resumed}}
