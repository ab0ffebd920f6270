"""What is known of the cluster at one moment: the newest report of each node, and when it was heard.

A `View` is a value: a new report makes a new view, which shares everything unchanged with the old one. It keeps
itself indexed by model, so that a decision looks at the nodes that matter and not at all of them. Who counts as
lost is decided by whoever listens (node.peers); here a lost node is one whose report says so, or that is not there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from msgspec.structs import replace

from node.report import (
    DeviceReport,
    HeldModel,
    ModelDigest,
    NodeReport,
    NodeState,
    PrefixHash,
    RamReport,
    ResidentModel,
    TokenUse,
)

if TYPE_CHECKING:
    from node.identity import NodeId

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

__all__ = [
    "DeviceReport",
    "HeldModel",
    "ModelDigest",
    "NodeReport",
    "NodeState",
    "PrefixHash",
    "RamReport",
    "ResidentModel",
    "TokenUse",
    "View",
]

# Until a node has measured its own: a gigabit link and a plain SSD.
DEFAULT_LINK_BYTES_S = 100e6
DEFAULT_LOAD_BYTES_S = 500e6

ResidentKey: TypeAlias = tuple[ModelDigest, bool]  # loaded for embeddings (True) or to generate


@dataclass(frozen=True, slots=True)
class _Index:
    """The view by model. Nothing in it is changed once a view has it; node ids stand for reports, which change."""

    hosts: Mapping[ResidentKey, Mapping[NodeId, ResidentModel]]
    holders: Mapping[ModelDigest, Mapping[NodeId, HeldModel]]
    loaders: tuple[tuple[float, NodeId], ...]


_NO_HOSTS: Mapping[NodeId, ResidentModel] = {}
_NO_HOLDERS: Mapping[NodeId, HeldModel] = {}


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as `me` sees it.

    Attributes:
        nodes: the newest report of each, my own included.
        heard_at_s: when each was heard, by this machine's monotonic clock.
        sent: requests that this node has routed to a node and model since that node's report, so that the next
            request does not believe the place still free; see `with_sent`.
    """

    nodes: Mapping[NodeId, NodeReport]
    heard_at_s: Mapping[NodeId, float]
    me: NodeId
    sent: Mapping[tuple[NodeId, ModelDigest], int] = field(default_factory=dict)
    _index: list[_Index] = field(default_factory=list, init=False, repr=False, compare=False)

    def hosts(self, model: ModelDigest, *, embedding: bool = False) -> Mapping[NodeId, ResidentModel]:
        """The nodes, up or draining, that have the model in memory, and how."""
        return self._indexed().hosts.get((model, embedding), _NO_HOSTS)

    def holders(self, model: ModelDigest) -> Mapping[NodeId, HeldModel]:
        """The nodes, up or draining, that have its manifest on disk."""
        return self._indexed().holders.get(model, _NO_HOLDERS)

    def loaders(self) -> tuple[tuple[float, NodeId], ...]:
        """The nodes that are up, with the seconds that fetching and loading one byte takes there, fastest first."""
        return self._indexed().loaders

    def digests_named(self, name: str) -> tuple[ModelDigest, ...]:
        """The models that nodes have under a name, most widespread first (then by digest)."""
        found: dict[ModelDigest, int] = {}
        for report in self.nodes.values():
            if report.state != "lost":
                for held in report.held:
                    if held.name == name:
                        found[held.digest] = found.get(held.digest, 0) + 1
        return tuple(sorted(found, key=lambda digest: (-found[digest], digest)))

    def with_report(self, report: NodeReport, heard_at_s: float) -> View:
        """The view after a report. One that is not newer than what is known only says when the node was heard."""
        known = self.nodes.get(report.node)
        heard = {**self.heard_at_s, report.node: heard_at_s}
        if known is not None and not report.is_newer_than(known):
            return self._next(self.nodes, heard, self.sent, self._index)
        nodes = {**self.nodes, report.node: report}
        # What was sent there before is in its own counts now.
        sent = {key: count for key, count in self.sent.items() if key[0] != report.node} if self.sent else self.sent
        return self._next(nodes, heard, sent, [_replace(old, known, report) for old in self._index])

    def with_state(self, node: NodeId, state: NodeState) -> View:
        """The view after this machine has found out by itself that a node is lost (or back)."""
        known = self.nodes.get(node)
        if known is None or known.state == state:
            return self
        report = replace(known, state=state)
        index = [_replace(old, known, report) for old in self._index]
        return self._next({**self.nodes, node: report}, self.heard_at_s, self.sent, index)

    def without(self, node: NodeId) -> View:
        """The view without a node that has left the cluster."""
        known = self.nodes.get(node)
        if known is None:
            return self
        nodes = {key: report for key, report in self.nodes.items() if key != node}
        heard = {key: at for key, at in self.heard_at_s.items() if key != node}
        sent = {key: count for key, count in self.sent.items() if key[0] != node}
        return self._next(nodes, heard, sent, [_replace(old, known, None) for old in self._index])

    def with_sent(self, node: NodeId, model: ModelDigest, count: int = 1) -> View:
        """The view after `count` more requests were routed there (fewer, if negative: they have ended)."""
        key = (node, model)
        sent = {**self.sent, key: max(0, self.sent.get(key, 0) + count)}
        return self._next(self.nodes, self.heard_at_s, sent, self._index)

    def _next(
        self,
        nodes: Mapping[NodeId, NodeReport],
        heard_at_s: Mapping[NodeId, float],
        sent: Mapping[tuple[NodeId, ModelDigest], int],
        index: Iterable[_Index],
    ) -> View:
        view = View(nodes, heard_at_s, self.me, sent)
        view._index.extend(index)
        return view

    def _indexed(self) -> _Index:
        if not self._index:
            self._index.append(_index_of(self.nodes.values()))
        return self._index[0]


def _index_of(reports: Iterable[NodeReport]) -> _Index:
    hosts: dict[ResidentKey, dict[NodeId, ResidentModel]] = {}
    holders: dict[ModelDigest, dict[NodeId, HeldModel]] = {}
    loaders: list[tuple[float, NodeId]] = []
    for report in reports:
        for key, resident in _resident(report).items():
            hosts.setdefault(key, {})[report.node] = resident
        for digest, held in _held(report).items():
            holders.setdefault(digest, {})[report.node] = held
        loaders += _loader(report)
    return _Index(hosts, holders, tuple(sorted(loaders)))


def _replace(index: _Index, old: NodeReport | None, new: NodeReport | None) -> _Index:
    """The index with one node's report replaced: work in proportion to what that node has."""
    report = new or old
    assert report is not None  # one of them is there, or nothing would have changed
    hosts = _replace_rows(index.hosts, report.node, _resident(old), _resident(new))
    holders = index.holders
    if old is None or new is None or old.state != new.state or old.held != new.held:
        holders = _replace_rows(index.holders, report.node, _held(old), _held(new))
    before, after = _loader(old), _loader(new)
    loaders = index.loaders
    if before != after:
        loaders = tuple(sorted([*(loader for loader in loaders if loader[1] != report.node), *after]))
    return _Index(hosts, holders, loaders)


def _replace_rows(
    table: Mapping[Key, Mapping[NodeId, Value]], node: NodeId, old: Mapping[Key, Value], new: Mapping[Key, Value]
) -> Mapping[Key, Mapping[NodeId, Value]]:
    """The table with one node's values replaced; rows that do not change are shared with the old table."""
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if not changed:
        return table
    rows = dict(table)
    for key in changed:
        row = dict(rows.get(key, {}))
        if key in new:
            row[node] = new[key]
        else:
            row.pop(node, None)
        if row:
            rows[key] = row
        else:
            rows.pop(key, None)
    return rows


def _resident(report: NodeReport | None) -> dict[ResidentKey, ResidentModel]:
    if report is None or report.state == "lost":
        return {}
    return {(resident.digest, resident.embedding): resident for resident in report.resident}


def _held(report: NodeReport | None) -> dict[ModelDigest, HeldModel]:
    if report is None or report.state == "lost":
        return {}
    return {held.digest: held for held in report.held}


def _loader(report: NodeReport | None) -> list[tuple[float, NodeId]]:
    if report is None or report.state != "up":
        return []
    link = report.link_bytes_s or DEFAULT_LINK_BYTES_S
    return [(1 / link + 1 / (report.load_bytes_s or DEFAULT_LOAD_BYTES_S), report.node)]
