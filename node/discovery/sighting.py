"""What discovery has seen, and what that means for this machine: may it join, is it a member, why not.

Pure. `ayni discover` prints the findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from node.discovery.record import Advert
from node.identity import ClusterId, NodeId

Standing: TypeAlias = Literal["this machine", "member", "joinable", "other cluster", "not joinable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A machine that announces itself: what it says (`advert`), or why that can't be read (`problem`)."""

    instance: str
    addresses: tuple[str, ...] = ()
    advert: Advert | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Myself:
    """What the judgement depends on; `cluster` None: this machine belongs to none.

    Attributes:
        members: last known name of every member of our cluster, by id.
        removed: nodes whose membership was revoked.
    """

    version: str
    node: NodeId | None = None
    cluster: ClusterId | None = None
    members: Mapping[NodeId, str] | None = None
    removed: frozenset[NodeId] = frozenset()


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `ayni discover`."""

    sighting: Sighting
    standing: Standing
    reason: str


def judge(sighting: Sighting, me: Myself) -> Finding:
    """Say what a sighting is to this machine.

    1. Its record can't be read. 2. It is this machine. 3. It has no address. 4. It was removed from our cluster.
    5. It announces our cluster: a member we know, or one we have yet to meet. 6. We are in another cluster.
    7. Its version is incompatible. 8. We are in none: its cluster can be joined with an invitation.
    """
    advert = sighting.advert
    if advert is None:
        return Finding(sighting, "not joinable", sighting.problem)
    if advert.node == me.node:
        return Finding(sighting, "this machine", "that is us")
    if not sighting.addresses:
        return Finding(sighting, "not joinable", "it announces no address that can be dialled")
    if me.cluster is not None and advert.cluster == me.cluster:
        if advert.node in me.removed:
            return Finding(sighting, "not joinable", "it was removed from this cluster; invite it again")
        if me.members is not None and advert.node in me.members:
            return Finding(sighting, "member", "a member of this cluster")
        return Finding(sighting, "member", "says that it is a member; its certificate decides")
    if me.cluster is not None:
        return Finding(
            sighting,
            "other cluster",
            f"it is in another cluster, {advert.cluster_name!r}; to change, `ayni cluster leave` on one side first",
        )
    if series(advert.version) != series(me.version):
        return Finding(
            sighting, "not joinable", f"it runs Ayni {advert.version}, this machine {me.version}; update the older one"
        )
    return Finding(
        sighting, "joinable", f"run `ayni cluster invite` there and `ayni join` here to enter {advert.cluster_name!r}"
    )


def judge_all(sightings: Iterable[Sighting], me: Myself) -> list[Finding]:
    """All findings, what can be acted on first."""
    rank: tuple[Standing, ...] = ("this machine", "member", "joinable", "other cluster", "not joinable")
    findings = [judge(sighting, me) for sighting in sightings]
    return sorted(findings, key=lambda finding: (rank.index(finding.standing), finding.sighting.instance))


def series(version: str) -> str:
    """The part of a version within which machines work together: major and, before 1.0, minor."""
    major, _, rest = version.partition(".")
    return f"0.{rest.partition('.')[0]}" if major == "0" else major
