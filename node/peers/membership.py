"""Who belongs to the cluster, under which addresses, and who is there now. Pure: time is passed in.

A member is up while it both answers our beats and sends its own, each within `SILENCE_LIMIT_S`: one that hears us but
whom we can't hear is as useless for a stream as the other way round. It is lost after that silence, or at once when
its machine refuses connections or it says that it leaves. Clocks of other machines are compared, never relied on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from node.report import Amount, NodeReport

if TYPE_CHECKING:
    from node.identity import NodeId
else:
    NodeId = str  # as in node.report

BEAT_S = 0.5
SILENCE_LIMIT_S = 2.0
# A member that has been silent for long is still called, but less and less often.
SLOWEST_BEAT_S = 5.0
# If we did not look for so long, we slept ourselves: what looks like the others' silence is ours.
OWN_SLEEP_S = 1.0
# Members name each other, so the book is bounded: far above the largest cluster we test.
MAX_MEMBERS = 4096
MAX_ADDRESSES = 16


class Beat(Struct, frozen=True, kw_only=True):
    """What every member tells every other one, twice a second.

    Attributes:
        report: the sender's own; it names the sender.
        addresses: host:port under which its LAN port may be reached, best first.
        ledger: fingerprint of the signed records it knows; where two differ, they exchange them.
        leaving: it ends now; this is its last beat.
    """

    report: NodeReport
    addresses: tuple[str, ...]
    ledger: bytes = b""
    leaving: bool = False


class BeatAnswer(Struct, frozen=True, kw_only=True):
    """What a beat is answered with; `unix_s` is the answering node's clock, to notice clocks that differ."""

    node: NodeId
    started_at: Amount
    unix_s: Amount
    ledger: bytes = b""


class MemberRecord(Struct, frozen=True, kw_only=True):
    """What is remembered of a member over restarts."""

    node: NodeId
    name: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WentUp:
    """A member is there, for the first time, again, or as a new process; with its newest report."""

    report: NodeReport


@dataclass(frozen=True, slots=True)
class WentDown:
    """A member can't be relied on any more: whatever it was doing for us is lost."""

    node: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class Reported:
    """A newer report of a member that is up."""

    report: NodeReport


Change: TypeAlias = WentUp | WentDown | Reported
MemberState: TypeAlias = Literal["unknown", "up", "down"]


@dataclass(slots=True)
class Member:
    """One other node. Times are this machine's monotonic seconds.

    Attributes:
        heard_s: its last beat; `answered_s`: its last answer to one of ours.
        clock_offset_s: its clock minus ours, as far as one exchange tells.
        down_since_s: since when it has been down, or known at all.
    """

    node: NodeId
    name: str = ""
    addresses: tuple[str, ...] = ()
    state: MemberState = "unknown"
    report: NodeReport | None = None
    heard_s: float | None = None
    answered_s: float | None = None
    clock_offset_s: float = 0.0
    down_since_s: float = 0.0
    down_reason: str = "not seen yet"

    @property
    def started_at(self) -> float:
        """When its daemon started, by its own clock; 0: not heard yet."""
        return self.report.started_at if self.report else 0.0


class Membership:
    """All other members. Every method that may change who is there returns the changes, in order."""

    def __init__(self, me: NodeId, *, silence_limit_s: float = SILENCE_LIMIT_S) -> None:
        self.me = me
        self._silence_limit_s = silence_limit_s
        self._members: dict[NodeId, Member] = {}
        self._looked_s: float | None = None
        self._trusted_from_s = 0.0

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def __len__(self) -> int:
        return len(self._members)

    def get(self, node: NodeId) -> Member | None:
        """What is known of a member."""
        return self._members.get(node)

    def is_up(self, node: NodeId) -> bool:
        """Whether work can be sent there."""
        member = self._members.get(node)
        return member is not None and member.state == "up"

    def remember(self, node: NodeId, *, name: str = "", addresses: Iterable[str] = (), now_s: float) -> bool:
        """Add a member, or what was learnt about one, its newest addresses first. False: nothing new."""
        if node == self.me:
            return False
        member = self._members.get(node)
        if member is None:
            if len(self._members) >= MAX_MEMBERS:
                return False
            member = self._members[node] = Member(node, down_since_s=now_s)
        known = (member.name, member.addresses)
        member.name = name or member.name
        member.addresses = tuple(dict.fromkeys((*addresses, *member.addresses)))[:MAX_ADDRESSES]
        return known != (member.name, member.addresses)

    def forget(self, node: NodeId) -> list[Change]:
        """The member left or was removed."""
        member = self._members.pop(node, None)
        return [WentDown(node, "it left the cluster")] if member is not None and member.state == "up" else []

    def heard(self, beat: Beat, now_s: float) -> list[Change]:
        """A member's beat came. One that was overtaken by a newer one only says that it is alive."""
        report = beat.report
        if report.node == self.me:
            return []
        self.remember(report.node, name=report.name, addresses=beat.addresses, now_s=now_s)
        member = self._members.get(report.node)
        if member is None:
            return []
        changes: list[Change] = []
        if member.report is not None and member.report.is_newer_than(report):
            if report.started_at == member.started_at:
                member.heard_s = now_s
            return self._settle(member, now_s)
        if member.state == "up" and report.started_at != member.started_at:
            changes += self._down(member, "its daemon was restarted", now_s)
        member.report, member.heard_s = report, now_s
        # Addresses that it names itself come first, and stay in its order.
        member.addresses = tuple(dict.fromkeys((*beat.addresses, *member.addresses)))[:MAX_ADDRESSES]
        if beat.leaving:
            return [*changes, *self._down(member, "it is leaving", now_s)]
        if member.state == "up":
            return [Reported(report)]
        return [*changes, *self._settle(member, now_s)]

    def answered(self, answer: BeatAnswer, *, sent_unix_s: float, round_trip_s: float, now_s: float) -> list[Change]:
        """A member answered our beat."""
        member = self._members.get(answer.node)
        if member is None:
            return []
        member.answered_s = now_s
        member.clock_offset_s = answer.unix_s - (sent_unix_s + round_trip_s / 2)
        if member.state == "up" and member.started_at != answer.started_at:
            return self._down(member, "its daemon was restarted", now_s)
        return self._settle(member, now_s)

    def refused(self, node: NodeId, reason: str, now_s: float) -> list[Change]:
        """The member's machine answered that no daemon is there: no need to wait for silence."""
        member = self._members.get(node)
        if member is None:
            return []
        member.answered_s = None
        return self._down(member, reason, now_s)

    def slept(self, now_s: float) -> list[Change]:
        """This machine has slept, and connections rarely live through that: nobody is up until heard anew."""
        changes: list[Change] = []
        for member in self._members.values():
            member.answered_s = None
            changes += self._down(member, "this machine slept", now_s)
        return changes

    def look(self, now_s: float) -> list[Change]:
        """Notice who has fallen silent. To be called often; a long pause between two calls counts as our own sleep."""
        if self._looked_s is not None and now_s - self._looked_s > OWN_SLEEP_S:
            self._trusted_from_s = now_s + self._silence_limit_s
        self._looked_s = now_s
        if now_s < self._trusted_from_s:
            return []
        changes: list[Change] = []
        for member in self._members.values():
            if member.state == "up" and (silence := self._silence_s(member, now_s)) > self._silence_limit_s:
                changes += self._down(member, f"silent for {silence:.1f} s", now_s)
        return changes

    def pause_s(self, node: NodeId, now_s: float) -> float:
        """How long to wait before the next beat to this member."""
        member = self._members.get(node)
        if member is None or member.state == "up":
            return BEAT_S
        return min(SLOWEST_BEAT_S, max(BEAT_S, (now_s - member.down_since_s) / 10))

    def records(self) -> tuple[MemberRecord, ...]:
        """What is to be remembered over a restart."""
        return tuple(
            MemberRecord(node=member.node, name=member.name, addresses=member.addresses)
            for member in self._members.values()
        )

    def _silence_s(self, member: Member, now_s: float) -> float:
        """The longer of the two silences; endless where one of both was never heard."""
        if member.heard_s is None or member.answered_s is None:
            return float("inf")
        return now_s - min(member.heard_s, member.answered_s)

    def _settle(self, member: Member, now_s: float) -> list[Change]:
        silent = self._silence_s(member, now_s) > self._silence_limit_s
        if member.state == "up" or silent or member.report is None:
            return []
        member.state, member.down_reason = "up", ""
        return [WentUp(member.report)]

    def _down(self, member: Member, reason: str, now_s: float) -> list[Change]:
        was_up, member.state = member.state == "up", "down"
        member.down_reason = reason
        member.heard_s = None  # it must be heard anew before it counts again
        if not was_up:
            return []
        member.down_since_s = now_s
        return [WentDown(member.node, reason)]
