"""Choose the node that serves a request: a `View` of the cluster in, a `Route` or a `Refusal` out.

Pure: no clock, socket, task or log line. The node with the least expected time to the first token wins; what that
time is made of is `coordinator.cost`'s business, whether memory does is `coordinator.memory`'s. Loading a model is
the coordinator's to order (`coordinator.placement`); a route that says "load" says where that would be best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from coordinator.cost import (
    HOP_S,
    START_S,
    RouteRequest,
    Terms,
    cached_tokens,
    can_serve,
    loading_terms,
    resident_terms,
)
from coordinator.view import Host, View
from node.footprint import Footprint
from node.report import NodeReport

if TYPE_CHECKING:
    from node.identity import NodeId

# Costs this close are equal: they come from averages.
TIE_S = 0.002
# In a cluster whose thousand nodes are all full, working every one out would take longer than it could save.
MOST_LOADS = 32
_ROUNDING_S = 1e-6

Kind: TypeAlias = Literal["resident", "load"]
Why: TypeAlias = Literal[
    "draining", "excluded", "lost", "no_bytes", "no_room", "not_wanted", "too_short", "too_small", "unknown_size"
]


class Candidate(NamedTuple):
    """A node that could serve the request, and what that would cost (a tuple: hot models make hundreds of them).

    Attributes:
        cached_tokens: of the prompt, in its cache. `occupancy`: requests there for each sequence it can run.
        cached_prompts: how many prompts its cache remembers, which a new one may displace.
        evicted: names of models that would have to go; `partial`: a part of the layers would stay in RAM.
    """

    node: NodeId
    name: str
    kind: Kind
    terms: Terms
    cached_tokens: int = 0
    occupancy: float = 0.0
    cached_prompts: int = 0
    evicted: tuple[str, ...] = ()
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Unfit:
    """A node that can't serve the request, and why; the bytes where room is what is missing."""

    node: NodeId
    name: str
    why: Why
    needed_bytes: int = 0
    free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """The chosen node. `candidates`: all that were worth working out, the chosen one among them."""

    node: NodeId
    kind: Kind
    terms: Terms
    cached_tokens: int
    candidates: tuple[Candidate, ...]

    @property
    def in_part(self) -> bool:
        """Whether a part of the layers would stay in RAM although the node has GPUs."""
        return any(candidate.partial for candidate in self.candidates if candidate.node == self.node)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nobody can serve the request. `needed_bytes` and the most that any node has or could free, for "no_room".

    `reason`: "unknown_model": no node that can be reached has it; "no_room": it fits nowhere, whole or in part;
    "no_node": nobody takes work, or all who could are excluded; "unknown_size": it is in no memory, and its size is
    not known here.
    """

    reason: Literal["unknown_model", "no_room", "no_node", "unknown_size"]
    needed_bytes: int = 0
    free_bytes: int = 0


def choose_route(view: View, request: RouteRequest) -> Route | Refusal:
    """Choose the node that is expected to begin its answer soonest.

    1. Nodes that have the model in memory, large enough for the request; of those with room for what is asked, or for
       the whole prompt where no context is asked for, if there are any. One on which nothing has run yet counts as
       fast as the fastest of its kind: it would not be tried otherwise. Of those within `TIE_S` of the best, the one
       with the longest cached prefix, then the emptiest.
    2. Nodes that would have to load it, if one of them could be faster even so: fastest loaders first, as long as
       the bytes alone do not take longer than what has been found.
    3. If all that is nobody, and the request may wait: nodes that have the room once what is in use there has ended.
    """
    request = _informed(view, request)
    hosts = _believed(view.hosts(request.model, embedding=request.embedding))
    found: list[Candidate] = []
    limit_s = float("inf")
    for host in _long_enough(_serving(hosts, request), request):
        if host.queue_s <= limit_s:
            candidate = _resident(view, host, request)
            found.append(candidate)
            limit_s = min(limit_s, candidate.terms.total_s + TIE_S)
    best = _first(found, view.me) if found else None
    footprint = request.footprint
    if footprint is not None and (best is None or best.terms.total_s > START_S):
        loads = _loads(view, request, footprint, best.terms.total_s if best else float("inf"))
        found += loads
        best = loads[-1] if loads else best
    if best is None and request.may_wait and (waits := _waits(view, request)):
        found, best = waits, waits[-1]
    if best is None:
        return _refusal(view, request)
    return Route(best.node, best.kind, best.terms, best.cached_tokens, tuple(found))


def consider(view: View, request: RouteRequest) -> tuple[list[Candidate], list[Unfit]]:
    """Work out every node, for people who ask why: those that could, best first as `choose_route` orders them."""
    request = _informed(view, request)
    could: list[Candidate] = []
    unfit: list[Unfit] = []
    hosts = _believed(view.hosts(request.model, embedding=request.embedding))
    serving = _serving(hosts, request)
    long_enough = _long_enough(serving, request)
    for report in view.nodes.values():
        host = hosts.get(report.node)
        if report.state != "up" or not _is_wanted(report.node, request):
            unfit.append(Unfit(report.node, report.name, _turned_away(report, request)))
        elif host in serving and host not in long_enough:
            unfit.append(Unfit(report.node, report.name, "too_short"))
        elif host is not None and can_serve(request, host.resident):
            could.append(_resident(view, host, request))
        elif isinstance(candidate := _load(view, report, request), Candidate):
            could.append(candidate)
        else:
            unfit.append(candidate)
    if not could and request.may_wait:
        could = _waits(view, request)
        unfit = [node for node in unfit if node.node not in {candidate.node for candidate in could}]
    by_speed = {loader.node: rank for rank, loader in enumerate(view.loaders())}
    could.sort(key=lambda candidate: (candidate.partial, candidate.terms.total_s, by_speed[candidate.node]))
    if residents := [candidate for candidate in could if candidate.kind == "resident"]:
        first = _first(residents, view.me)
        # As `choose_route` writes it: two floats can differ by a little more than what one was made of.
        if first.terms.total_s <= could[0].terms.total_s + TIE_S and could[0].kind == "resident":
            could.remove(first)
            could.insert(0, first)
    return could, unfit


def _informed(view: View, request: RouteRequest) -> RouteRequest:
    """The request with what the model takes, where one of its holders has told."""
    if request.footprint is None and (known := view.footprint(request.model)):
        return replace(request, footprint=known)
    return request


def _believed(hosts: Mapping[NodeId, Host]) -> Mapping[NodeId, Host]:
    """The hosts, with those on which nothing has run yet taken to be as fast as the fastest of their kind."""
    guessed = [node for node, host in hosts.items() if host.guessed]
    if not guessed or len(guessed) == len(hosts):
        return hosts
    fastest: dict[bool, float] = {}
    for host in hosts.values():
        if not host.guessed:
            kind = bool(host.report.devices)
            fastest[kind] = max(fastest.get(kind, 0.0), host.prefill_tokens_s)
    believed = dict(hosts)
    for node in guessed:
        if speed := fastest.get(bool(hosts[node].report.devices)):
            believed[node] = hosts[node].believed(speed)
    return believed


def _serving(hosts: Mapping[NodeId, Host], request: RouteRequest) -> list[Host]:
    """Those that may be asked and have what is asked for in memory."""
    return [
        host
        for node, host in hosts.items()
        if _is_wanted(node, request) and _takes(host.report, request) and can_serve(request, host.resident)
    ]


def _long_enough(hosts: list[Host], request: RouteRequest) -> list[Host]:
    """Those that need not cut the prompt; all of them, where each would have to."""
    if request.context_tokens is None and len(hosts) > 1:
        return [host for host in hosts if host.resident.context_tokens > request.prompt_tokens] or hosts
    return hosts


def _takes(report: NodeReport, request: RouteRequest) -> bool:
    return report.state == "up" or (request.even_draining and report.state == "draining")


def _is_wanted(node: NodeId, request: RouteRequest) -> bool:
    return node not in request.excluded and (not request.only or node in request.only)


def _turned_away(report: NodeReport, request: RouteRequest) -> Why:
    if report.state != "up":
        return report.state
    return "excluded" if report.node in request.excluded else "not_wanted"


def _resident(view: View, host: Host, request: RouteRequest) -> Candidate:
    report, resident = host.report, host.resident
    there = resident.active + resident.queued
    if view.sent and (sent := view.sent.get((report.node, resident.digest))):
        host = host.with_sent(sent)
        there += sent.requests
    cached = cached_tokens(request, resident)
    terms = resident_terms(view, host, request, cached)
    occupancy = there / resident.parallel
    return Candidate(report.node, report.name, "resident", terms, cached, occupancy, len(resident.prefixes))


def _first(candidates: list[Candidate], me: NodeId) -> Candidate:
    """The best of several, ties decided: longest cached prefix, emptiest, least to displace, me, cheapest."""
    if len(candidates) == 1:
        return candidates[0]
    limit = min(candidate.terms.total_s for candidate in candidates) + TIE_S
    return min(
        (candidate for candidate in candidates if candidate.terms.total_s <= limit),
        key=lambda c: (-c.cached_tokens, c.occupancy, c.cached_prompts, c.node != me, c.terms.total_s, c.node),
    )


def _loads(view: View, request: RouteRequest, footprint: Footprint, limit_s: float) -> list[Candidate]:
    """Nodes to load to that beat `limit_s`, each better than the one before it.

    Nodes that already load it come first. Of the others only those are worked out whose bytes and prompt alone do
    not take longer than the best so far, and at most `MOST_LOADS`. A part of the layers in RAM is for a model that
    fits nowhere whole: its first token may come soon, the others would not.
    """
    if not _has_source(view, request):
        return []
    holders, already = view.holders(request.model), view.loading(request.model)
    hosts = view.hosts(request.model, embedding=request.embedding)
    size = footprint.file_bytes
    least_room = footprint.need(footprint.context(request.context_tokens), request.parallel or 1).total_bytes
    work = max(1, request.prompt_tokens) * footprint.layer_bytes
    found: list[Candidate] = []
    in_part: list[Candidate] = []
    best_s, left = limit_s, MOST_LOADS

    def take(node: NodeId) -> None:
        nonlocal best_s, left
        host = hosts.get(node)
        if host is not None and can_serve(request, host.resident):
            return  # it is there already, and has been considered so
        left -= 1
        candidate = _load(view, view.nodes[node], request)
        if not isinstance(candidate, Candidate) or candidate.terms.total_s >= best_s:
            return
        if candidate.partial:
            in_part.append(candidate)
        else:
            found.append(candidate)
            best_s = candidate.terms.total_s

    for node in already:
        if view.nodes[node].state == "up" and _is_wanted(node, request):
            take(node)
    for s_per_byte, node, fetch_s_per_byte, room_bytes, prefill in view.loaders():
        # A little more than the truth, or equal costs would differ in their last bit and all be worked out.
        least_s = _ROUNDING_S + START_S + size * s_per_byte
        if least_s >= best_s or not left:
            break
        if room_bytes < least_room:
            continue
        least_s += work / prefill + (HOP_S if node != view.me else 0.0)
        if node not in holders:
            least_s += size * fetch_s_per_byte
        if least_s < best_s and node not in already and _is_wanted(node, request):
            take(node)
    if found or limit_s < float("inf"):
        return found  # where it is in memory already, it is so as a whole or because it fits nowhere
    return sorted(in_part, key=lambda candidate: -candidate.terms.total_s)


def _waits(view: View, request: RouteRequest) -> list[Candidate]:
    """Nodes that could load it once what is in use there has ended, the best one last."""
    found = []
    for _, node, *_ in view.loaders():
        if _is_wanted(node, request):
            candidate = _load(view, view.nodes[node], request, waits=True)
            if isinstance(candidate, Candidate):
                found.append(candidate)
    return sorted(found, key=lambda candidate: (not candidate.partial, -candidate.terms.total_s))


def _load(view: View, report: NodeReport, request: RouteRequest, *, waits: bool = False) -> Candidate | Unfit:
    """What loading the model on this node would cost, or why that can't be.

    `waits`: models in use have to go as well, once they are idle.
    """
    footprint = request.footprint
    if footprint is None:
        return Unfit(report.node, report.name, "unknown_size")
    host = view.hosts(request.model, embedding=request.embedding).get(report.node)
    if host is not None and not waits and (host.resident.active or host.resident.queued):
        return Unfit(report.node, report.name, "too_small")
    held = view.holders(request.model).get(report.node)
    can_fetch = report.link_bytes_s > 0 and _has_source(view, request, but=report.node)
    if not (held and held.is_complete) and not can_fetch:
        return Unfit(report.node, report.name, "no_bytes")
    terms, fit, victims = loading_terms(view, report, held, footprint, request, waits=waits)
    if fit.how == "no":
        return Unfit(report.node, report.name, "no_room", fit.needed_bytes, fit.free_bytes)
    return Candidate(
        report.node,
        report.name,
        "load",
        terms,
        evicted=tuple(victim.name for victim in victims),
        partial=fit.how == "partial",
    )


def _has_source(view: View, request: RouteRequest, *, but: NodeId | None = None) -> bool:
    """Whether a node that can be reached has the whole model on disk."""
    return any(held.is_complete for node, held in view.holders(request.model).items() if node != but)


def _refusal(view: View, request: RouteRequest) -> Refusal:
    """Say why nobody can, most telling reason first; only then is every node looked at."""
    if not view.holders(request.model) and not view.hosts(request.model, embedding=request.embedding):
        return Refusal("unknown_model")
    _, unfit = consider(view, request)
    if short := [node for node in unfit if node.why == "no_room"]:
        return Refusal("no_room", min(map(attrgetter("needed_bytes"), short)), max(n.free_bytes for n in short))
    if all(node.why == "no_bytes" for node in unfit):
        return Refusal("unknown_model")
    return Refusal("unknown_size" if any(node.why == "unknown_size" for node in unfit) else "no_node")
