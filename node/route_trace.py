"""Where the request that this task serves went: noted by whoever routes it, read by whoever answers it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class RouteTrace:
    """`route`: the chosen node and why, in one line of ASCII. `resumed`: how often another node had to go on.

    `queue`: which place in the queue it had when it came, and how long that was expected to take; "": it had its turn
    at once.
    """

    route: str = ""
    queue: str = ""
    resumed: int = 0


ROUTE_TRACE: ContextVar[RouteTrace | None] = ContextVar("route_trace", default=None)
