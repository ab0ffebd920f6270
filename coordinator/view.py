"""What is known of the cluster at one moment: the newest report of each node, and when it was heard.

A `View` is a value: a new report makes a new view, which shares everything unchanged with the old one. It keeps
itself indexed by model, so that a decision looks at the nodes that matter and not at all of them. Who counts as
lost is decided by whoever listens (node.peers); here a lost node is one whose report says so, or that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from msgspec.structs import replace

from node.footprint import Footprint
from node.report import (
    DeviceReport,
    HeldModel,
    NodeReport,
    NodeState,
    PrefixHash,
    RamReport,
    ResidentModel,
    TokenUse,
    WeightsDigest,
)

if TYPE_CHECKING:
    from node.identity import NodeId

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

__all__ = [
    "DeviceReport",
    "Footprint",
    "HeldModel",
    "Host",
    "Loader",
    "NodeReport",
    "NodeState",
    "PrefixHash",
    "RamReport",
    "ResidentModel",
    "Sent",
    "TokenUse",
    "View",
    "WeightsDigest",
    "is_evictable",
    "prefill_bytes_s",
]

# Until a node has measured its own: a plain SSD.
DEFAULT_LOAD_BYTES_S = 500e6
# Until something has run there: weights (bytes) times prompt tokens, a second, of a small GPU and of a CPU.
DEFAULT_GPU_PREFILL_BYTES_S = 4e12
DEFAULT_CPU_PREFILL_BYTES_S = 1e11
DEFAULT_JOB_S = 5.0
# Less than this nobody measures; and one can divide by it.
SLOWEST_TOKENS_S = 1e-9

ResidentKey: TypeAlias = tuple[WeightsDigest, bool]  # loaded for embeddings (True) or to generate


class Sent(NamedTuple):
    """Requests on their way to a node, and the prompt tokens they bring."""

    requests: int = 0
    prompt_tokens: int = 0


_NOTHING_SENT = Sent()


class Host(NamedTuple):
    """A model in a node's memory, and what follows from the report alone of how soon it could begin to answer.

    Attributes:
        prefill_tokens_s: how fast it reads prompts now. Other models that compute on the node share its devices.
            `guessed`: nothing has run there yet that would tell.
        queue_s: until a new request's prompt is read there. With a free slot: the prompts that arrived earlier;
            without: those ahead must end, and slots become free `parallel` times as fast as one request takes.
    """

    report: NodeReport
    resident: ResidentModel
    prefill_tokens_s: float
    queue_s: float
    guessed: bool = False

    def with_sent(self, sent: Sent) -> Host:
        """The same once the requests that are on their way have arrived."""
        return self._replace(queue_s=_queue_s(self.resident, self.prefill_tokens_s, sent))

    def believed(self, prefill_tokens_s: float) -> Host:
        """The same, if it reads prompts so fast."""
        queue_s = _queue_s(self.resident, prefill_tokens_s, _NOTHING_SENT)
        return self._replace(prefill_tokens_s=prefill_tokens_s, queue_s=queue_s)


class Loader(NamedTuple):
    """A node as a place to load to; sorts by speed.

    Attributes:
        s_per_byte: seconds to read a byte from its disk to its devices. `fetch_s_per_byte`: to get it there first.
        room_bytes: no load finds more memory than this, whatever is unloaded for it.
        prefill_bytes_s: what speed to expect (see `NodeReport`).
    """

    s_per_byte: float
    node: NodeId
    fetch_s_per_byte: float
    room_bytes: int
    prefill_bytes_s: float


@dataclass(frozen=True, slots=True)
class _Index:
    """The view by model. Nothing in it is changed once a view has it."""

    hosts: Mapping[ResidentKey, Mapping[NodeId, Host]]
    holders: Mapping[WeightsDigest, Mapping[NodeId, HeldModel]]
    loaders: tuple[Loader, ...]
    loading: Mapping[WeightsDigest, Mapping[NodeId, int]]


_NO_HOSTS: Mapping[NodeId, Host] = {}
_NO_HOLDERS: Mapping[NodeId, HeldModel] = {}
_NO_LOADING: Mapping[NodeId, int] = {}


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
    sent: Mapping[tuple[NodeId, WeightsDigest], Sent] = field(default_factory=dict)
    _index: list[_Index] = field(default_factory=list, init=False, repr=False, compare=False)

    def hosts(self, model: WeightsDigest, *, embedding: bool = False) -> Mapping[NodeId, Host]:
        """The nodes, up or draining, that have the model in memory, and how."""
        return self._indexed().hosts.get((model, embedding), _NO_HOSTS)

    def holders(self, model: WeightsDigest) -> Mapping[NodeId, HeldModel]:
        """The nodes, up or draining, that have its manifest on disk."""
        return self._indexed().holders.get(model, _NO_HOLDERS)

    def loaders(self) -> tuple[Loader, ...]:
        """The nodes that are up, those that load fastest first."""
        return self._indexed().loaders

    def loading(self, model: WeightsDigest) -> Mapping[NodeId, int]:
        """The nodes that are up or draining and load it just now, with the bytes it will take there."""
        return self._indexed().loading.get(model, _NO_LOADING)

    def footprint(self, model: WeightsDigest) -> Footprint | None:
        """What the model takes, as one of those that hold it has told."""
        return next((held.footprint for held in self.holders(model).values() if held.footprint), None)

    def with_report(self, report: NodeReport, heard_at_s: float) -> View:
        """The view after a report. One that is not newer than what is known only says when the node was heard."""
        known = self.nodes.get(report.node)
        heard = {**self.heard_at_s, report.node: heard_at_s}
        if known is not None and not report.is_newer_than(known):
            return self._next(self.nodes, heard, self.sent, self._index)
        report = report.completed(known) if known is not None else report
        nodes = {**self.nodes, report.node: report}
        # What was sent there before is in its own counts now.
        sent = {key: count for key, count in self.sent.items() if key[0] != report.node} if self.sent else self.sent
        return self._next(nodes, heard, sent, [_replace(old, known, report) for old in self._index])

    def with_state(self, node: NodeId, state: NodeState) -> View:
        """The view after this machine has found out by itself that a node is lost (or back)."""
        known = self.nodes.get(node)
        return self if known is None or known.state == state else self.corrected(replace(known, state=state))

    def corrected(self, report: NodeReport) -> View:
        """The view with a node's report replaced by what this machine knows better, however new it is."""
        index = [_replace(old, self.nodes.get(report.node), report) for old in self._index]
        return self._next({**self.nodes, report.node: report}, self.heard_at_s, self.sent, index)

    def without(self, node: NodeId) -> View:
        """The view without a node that has left the cluster."""
        known = self.nodes.get(node)
        if known is None:
            return self
        nodes = {key: report for key, report in self.nodes.items() if key != node}
        heard = {key: at for key, at in self.heard_at_s.items() if key != node}
        sent = {key: count for key, count in self.sent.items() if key[0] != node}
        return self._next(nodes, heard, sent, [_replace(old, known, None) for old in self._index])

    def with_sent(self, node: NodeId, model: WeightsDigest, prompt_tokens: int, *, requests: int = 1) -> View:
        """The view after a request was routed there; negative numbers: one that has ended since."""
        key = (node, model)
        before = self.sent.get(key, _NOTHING_SENT)
        sent = {**self.sent, key: Sent(before.requests + requests, before.prompt_tokens + prompt_tokens)}
        return self._next(self.nodes, self.heard_at_s, sent, self._index)

    def _next(
        self,
        nodes: Mapping[NodeId, NodeReport],
        heard_at_s: Mapping[NodeId, float],
        sent: Mapping[tuple[NodeId, WeightsDigest], Sent],
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
    hosts: dict[ResidentKey, dict[NodeId, Host]] = {}
    holders: dict[WeightsDigest, dict[NodeId, HeldModel]] = {}
    loading: dict[WeightsDigest, dict[NodeId, int]] = {}
    loaders: list[Loader] = []
    for report in reports:
        for key, host in _hosts(report).items():
            hosts.setdefault(key, {})[report.node] = host
        for digest, held in _held(report).items():
            holders.setdefault(digest, {})[report.node] = held
        for digest, count in _loading(report).items():
            loading.setdefault(digest, {})[report.node] = count
        loaders += _loader(report)
    return _Index(hosts, holders, tuple(sorted(loaders)), loading)


def _replace(index: _Index, old: NodeReport | None, new: NodeReport | None) -> _Index:
    """The index with one node's report replaced: work in proportion to what that node has."""
    report = new or old
    assert report is not None  # one of them is there, or nothing would have changed
    hosts = _replace_rows(index.hosts, report.node, _hosts(old), _hosts(new))
    holders = index.holders
    if old is None or new is None or old.state != new.state or old.held != new.held:
        holders = _replace_rows(index.holders, report.node, _held(old), _held(new))
    loading = _replace_rows(index.loading, report.node, _loading(old), _loading(new))
    before, after = _loader(old), _loader(new)
    loaders = index.loaders
    if before != after:
        loaders = tuple(sorted([*(loader for loader in loaders if loader[1] != report.node), *after]))
    return _Index(hosts, holders, loaders, loading)


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


def _hosts(report: NodeReport | None) -> dict[ResidentKey, Host]:
    if report is None or report.state == "lost":
        return {}
    return {(resident.digest, resident.embedding): _host(report, resident) for resident in report.resident}


def _host(report: NodeReport, resident: ResidentModel) -> Host:
    speed = resident.prefill_tokens_s or prefill_bytes_s(report) / max(1, resident.size_bytes)
    if len(report.resident) > 1:
        speed /= 1 + sum(1 for other in report.resident if other.active and other is not resident)
    speed = max(speed, SLOWEST_TOKENS_S)
    guessed = not (resident.prefill_tokens_s or report.prefill_bytes_s)
    return Host(report, resident, speed, _queue_s(resident, speed, _NOTHING_SENT), guessed)


def _queue_s(resident: ResidentModel, prefill_tokens_s: float, sent: Sent) -> float:
    queue_s = (resident.backlog_tokens + sent.prompt_tokens) / prefill_tokens_s
    ahead = resident.active + resident.queued + sent.requests - resident.parallel
    if ahead >= 0:
        queue_s = max(queue_s, (ahead + 1) * (resident.mean_job_s or DEFAULT_JOB_S) / resident.parallel)
    return queue_s


def _held(report: NodeReport | None) -> dict[WeightsDigest, HeldModel]:
    if report is None or report.state == "lost":
        return {}
    # Several models may share weights: the one that is there most completely counts.
    return {held.digest: held for held in sorted(report.held, key=lambda held: held.present_bytes - held.size_bytes)}


def _loading(report: NodeReport | None) -> Mapping[WeightsDigest, int]:
    return {} if report is None or report.state == "lost" else report.loading


def _loader(report: NodeReport | None) -> list[Loader]:
    if report is None or report.state != "up":
        return []
    load = report.load_bytes_s or DEFAULT_LOAD_BYTES_S
    fetch_s_per_byte = 1 / report.link_bytes_s if report.link_bytes_s else math.inf
    return [Loader(1 / load, report.node, fetch_s_per_byte, most_room(report), prefill_bytes_s(report))]


def prefill_bytes_s(report: NodeReport) -> float:
    """Weights (bytes) times prompt tokens a second to expect of a node, measured or guessed."""
    return report.prefill_bytes_s or (DEFAULT_GPU_PREFILL_BYTES_S if report.devices else DEFAULT_CPU_PREFILL_BYTES_S)


def most_room(report: NodeReport) -> int:
    """More bytes than this no load can find on the node at once, whatever is unloaded for it."""
    idle = sum(resident.size_bytes for resident in report.resident if is_evictable(resident))
    return report.ram.free_bytes + sum(device.free_bytes for device in report.devices) + idle


def is_evictable(resident: ResidentModel) -> bool:
    """Whether it may be unloaded for another model at once."""
    return not (resident.pinned or resident.active or resident.queued)
