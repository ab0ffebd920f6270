"""Where the request that this task serves went: noted by whoever routes it, read by whoever answers it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class RouteTrace:
    """`route`: the chosen node and why, in one line of ASCII. `resumed`: how often another node had to go on.

    `node`, `kind`: that node's name, and whether the model was in its memory ("resident") or had to be loaded.
    `queue`: which place in the queue it had when it came, and how long that was expected to take; "": it had its turn
    at once. `waited_s`: how long it took.
    """

    route: str = ""
    node: str = ""
    kind: str = ""
    queue: str = ""
    waited_s: float = 0.0
    resumed: int = 0


ROUTE_TRACE: ContextVar[RouteTrace | None] = ContextVar("route_trace", default=None)
