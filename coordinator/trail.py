"""Where one request has been, and how that went: who is not to be asked again for now, and when to leave off.

Pure, time passed in. An episode begins when a node is lost and ends with the next token: what went wrong a minute ago
says nothing about the machines of now.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from node.errors import Closing, DevicesUnknown, JobFailed, LoadError, NodeError, QueueFull, RunnerLost
from node.peers import ModelNotThere, PeerError, PeerLost, PeerUnreachable

if TYPE_CHECKING:
    from node.identity import NodeId

# A node that has just failed is asked again after this, if nobody else can: by then it is known to be down, or back.
SECOND_CHANCE_S = 0.5
# The longest that a node which said it was full is left alone.
FULL_LIMIT_S = 10.0
# A request that so many nodes were lost with, without a token in between, may be what fells them.
MOST_LOSSES = 4


@dataclass(slots=True)
class Trail:
    """One request's way.

    Attributes:
        wait_limit_s: how long a request that has lost its node waits for another one.
        told: why it is where it is now. `last_error`: the kind of what went wrong last.
    """

    wait_limit_s: float
    told: str = ""
    last_error: str = ""
    _losses: int = 0
    _lost_at_s: float = 0.0
    _last_loss: NodeError | None = None
    _first_refusal: NodeError | None = None
    _failed: set[NodeId] = field(default_factory=set)
    _refused: set[NodeId] = field(default_factory=set)
    _full_until_s: dict[NodeId, float] = field(default_factory=dict)

    @property
    def has_lost(self) -> bool:
        """Whether a node was lost with it: then it is worth waiting for another one."""
        return self._last_loss is not None

    def take(self, node: NodeId, error: NodeError, now_s: float, *, fruitful: bool = False) -> bool:
        """Note how an attempt ended; False: nobody could do better.

        1. Lost (the node, the way to it, its runner, a fault inside that; or it hands its work on): another node.
        2. Full: another one, and after a while the same. Who has lost a node waits for that, others do so once.
        3. Refused (no room, no such model, trouble with loading it): another one.

        Args:
            fruitful: it delivered something before that.
        """
        if fruitful:
            self._begin_anew()
        self.last_error = type(error).__name__
        match error:
            case PeerUnreachable() | PeerLost() | RunnerLost() | Closing():
                return self._lose(node, error, now_s)
            case JobFailed():
                return error.failed.kind == "internal" and self._lose(node, error, now_s)
            case QueueFull():
                self._first_refusal = self._first_refusal or error
                if node in self._full_until_s and not self.waits(now_s):
                    self._refused.add(node)
                self._full_until_s[node] = now_s + min(error.retry_after_s, FULL_LIMIT_S)
                return True
            case LoadError() | ModelNotThere() | PeerError() | DevicesUnknown():
                self._first_refusal = self._first_refusal or error
                self._refused.add(node)
                return True
            case _:
                return False

    def waits(self, now_s: float) -> bool:
        """Whether to wait for another node, where there is none now."""
        return self.has_lost and now_s - self._lost_at_s <= self.wait_limit_s

    def excluded(self, now_s: float) -> frozenset[NodeId]:
        """Nodes not to be asked now."""
        full = {node for node, end_s in self._full_until_s.items() if end_s > now_s}
        return frozenset(self._failed | self._refused | full)

    def give_second_chance(self, now_s: float) -> None:
        """Nobody else can: those that have failed may be asked again, once that was a moment ago."""
        if now_s - self._lost_at_s > SECOND_CHANCE_S:
            self._failed.clear()

    def error(self) -> NodeError | None:
        """What to tell the client: the first refusal since the last token, or the last loss."""
        return self._first_refusal or self._last_loss

    def _lose(self, node: NodeId, error: NodeError, now_s: float) -> bool:
        if not self._losses:
            self._lost_at_s = now_s
        self._losses += 1
        self._failed.add(node)
        self._last_loss = error
        return self._losses < MOST_LOSSES

    def _begin_anew(self) -> None:
        self._losses, self._last_loss, self._first_refusal = 0, None, None
        for memory in (self._failed, self._refused, self._full_until_s):
            memory.clear()
