"""Which node is head of the Ray cluster: everyone decides alone, from what it hears, and all come to the same.

Pure, time passed in. A head claims a generation; the claim (generation, head) is totally ordered, the higher one
wins, and a generation's number is never used again. So it does not matter that two halves of a cut network may both
have a head for a while: placement is soft state, each half places on its own machines, and when the cut heals
everybody follows the higher claim. Nobody needs a quorum to go on serving; a minority only waits longer before it
forms a cluster of its own, so that a flapping link at the edge does not upset the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from node.report import NodeReport

if TYPE_CHECKING:
    from node.identity import NodeId


@dataclass(frozen=True, slots=True)
class Timing:
    """How long to be sure before acting.

    Attributes:
        settle_s: a better claim is followed, and a lost head given up, only after so long.
        patience_s: what a minority of the last generation waits instead, whose machines were probably switched off, and
            who is told by others that they hear the head, which may take a moment longer to be heard here.
        forming_s: a node that should form a cluster and has not done so by then is passed over,
        forgiven_s: for that long.
    """

    settle_s: float = 1.0
    patience_s: float = 60.0
    forming_s: float = 20.0
    forgiven_s: float = 300.0


class Claim(NamedTuple):
    """A generation and its head; the higher one is followed."""

    generation: int
    head: NodeId


@dataclass(frozen=True, slots=True)
class Alone:
    """No other node can be reached: serve with what is here. A head keeps its session, the others may come back."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Change nothing: `for_node` is about to form a cluster, or this machine is not sure yet (None)."""

    for_node: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Follow:
    """Take part in this cluster: join it, or stay in it."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Form:
    """Become head of this new generation."""

    generation: int


Decision: TypeAlias = Alone | Wait | Follow | Form


def rank(report: NodeReport) -> tuple[object, ...]:
    """Order of preference for a head, smallest first.

    1. What the operator prefers. 2. Who has not just failed to be head. 3. Linux (Ray is experimental elsewhere).
    4. Not on battery. 5. Up for longest, the machine first and then the daemon. 6. By id.
    """
    return (
        -report.head_preference,
        report.head_failed,
        report.platform != "linux",
        report.on_battery,
        report.ready_at or report.started_at,
        report.started_at,
        report.node,
    )


@dataclass(slots=True)
class Election:
    """One node's part in it. `highest` is the highest generation ever heard of, to be kept over restarts."""

    me: NodeId
    timing: Timing = field(default_factory=Timing)
    highest: int = 0
    following: Claim | None = None
    _members: frozenset[NodeId] = frozenset()
    _headless_since_s: float | None = None
    _doubted_since_s: float | None = None
    _expected: tuple[NodeId, float] | None = None
    _passed_over: dict[NodeId, float] = field(default_factory=dict)

    def decide(self, nodes: Mapping[NodeId, NodeReport], now_s: float) -> Decision:
        """Say what to do, given the reports of all nodes that can be reached now, mine included.

        1. A claim that is heard is followed, the highest one first; what is followed is left only for something newer
           that has been heard for `settle_s`.
        2. None, and nobody else is there: alone; a head's own session is its claim and goes on.
        3. None for `settle_s` (`patience_s` where most of the last generation is missing, or others hear its head):
           the best-ranked node forms a new generation; the others wait for it, and pass it over if it does not.

        My own report counts as a claim while it says `head`. A claim lower than a generation that I or somebody heard
        has followed is void: nobody goes back, so that a lower generation always means an older one.
        """
        up = {node: report for node, report in nodes.items() if report.state != "lost"}
        claims = {Claim(report.generation, node) for node, report in up.items() if report.head and report.generation}
        newest = max((report.generation for report in up.values()), default=0)
        self.highest = max(self.highest, newest)
        mine = self.following
        if mine is not None:
            newest = max(newest, mine.generation)
        best = max((claim for claim in claims if claim.generation == newest), default=None)
        if mine is not None and mine in claims and best != mine:
            if self._doubted_since_s is None:
                self._doubted_since_s = now_s
            if now_s - self._doubted_since_s < self.timing.settle_s:
                return Follow(mine)
        else:
            self._doubted_since_s = None
        if best is not None:
            return self._follow(best, up)
        if up.keys() <= {self.me}:
            self._headless_since_s = self._expected = None
            return Alone()
        followed = {report.follows for report in up.values() if report.node != self.me and report.generation == newest}
        return self._headless(up, now_s, is_heard_elsewhere=bool(followed - up.keys() - {None}))

    def _follow(self, claim: Claim, up: Mapping[NodeId, NodeReport]) -> Decision:
        self._headless_since_s = self._expected = self._doubted_since_s = None
        self.following = claim
        # Who belongs to the generation, for judging later whether most of it is still there.
        together = {node for node, report in up.items() if report.generation == claim.generation}
        self._members = frozenset(together | {self.me, claim.head})
        return Follow(claim)

    def _headless(self, up: Mapping[NodeId, NodeReport], now_s: float, *, is_heard_elsewhere: bool) -> Decision:
        if self._headless_since_s is None:
            self._headless_since_s = now_s
        self._passed_over = {node: until for node, until in self._passed_over.items() if until > now_s}
        willing = [report for report in up.values() if report.head_preference >= 0 and report.state == "up"]
        if not willing:
            self._expected = None
            return Wait()
        if all(report.node in self._passed_over for report in willing):
            self._passed_over.clear()  # it was none of them in particular
        leader = min((report for report in willing if report.node not in self._passed_over), key=rank)
        present = len(self._members & up.keys())
        # Half counts as most: of two machines the one that is left must go on.
        is_minority = 2 * present < len(self._members)
        patience_s = self.timing.patience_s if is_minority or is_heard_elsewhere else self.timing.settle_s
        if now_s - self._headless_since_s < patience_s:
            return Wait()
        if leader.node == self.me:
            self._expected = None
            self.following = Claim(self.highest + 1, self.me)
            return Form(self.highest + 1)
        if self._expected is None or self._expected[0] != leader.node:
            self._expected = (leader.node, now_s)
        elif now_s - self._expected[1] >= self.timing.forming_s:
            self._passed_over[leader.node] = now_s + self.timing.forgiven_s
            self._expected = None
        return Wait(leader.node)

    def forget(self, removed: Set[NodeId]) -> None:
        """These are members no longer: nobody waits for them to come back."""
        self._members = self._members.difference(removed)

    def has_failed(self, now_s: float) -> bool:
        """Whether I could not form a generation lately, as others are to know (`NodeReport.head_failed`)."""
        return self._passed_over.get(self.me, now_s) > now_s

    def could_not_form(self, now_s: float) -> None:
        """My own attempt failed: let others try before I do again."""
        self.following = None
        self._passed_over[self.me] = now_s + self.timing.forgiven_s
