"""Where models are loaded: the single owner of that decision. Events in, orders out, nothing waits inside.

Pure, time passed in; the actor around it carries orders to the nodes and brings their reports back. Its state is
soft: a new `Placement` learns everything from the reports of one second.

A request that needs a load asks where; it is told at once, and the node that it goes to loads the model for it, and
unloads what has to go. Whoever else asks is sent there too: one load however many ask. Orders are for what nobody has
asked for: a second copy where the queue costs more than a load, its return, the emptying of a node that drains. Every
node keeps its own timers and pins: a model nobody asks for leaves by its node's keep-alive, not by order from here, and
a pinned one makes no room.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec.structs import replace as replace_report

from coordinator.cost import RouteRequest, can_serve, loading_terms
from coordinator.demand import Demand
from coordinator.orders import (
    Asked,
    Load,
    LoadFailed,
    LoadReason,
    NodeLost,
    Order,
    Placed,
    PlacementEvent,
    Reported,
    Tick,
    Unload,
)
from coordinator.route import Route, choose_route
from coordinator.view import ResidentKey, View
from node.report import NodeReport, ResidentModel, WeightsDigest

if TYPE_CHECKING:
    from node.identity import NodeId

FOREVER_S = float("inf")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take, and how long a state must last before it is acted on, in seconds.

    Attributes:
        unseen_load_s: a load that no report has shown by then has been lost.
        failed_s: a node is not given a load again that failed there.
        waited_half_life_s: in so long, half of the time that requests have waited is forgiven.
        spared_s: a model that was used within this time makes no room for a copy of another, unless requests for
            that have waited for longer all in all; then the time shrinks in proportion.
        spare_s: a copy has to be superfluous for that long before it is given back.
        repeat_s: an order that has had no visible effect is given again.
    """

    unseen_load_s: float = 30.0
    failed_s: float = 60.0
    waited_half_life_s: float = 60.0
    spared_s: float = 60.0
    spare_s: float = 60.0
    repeat_s: float = 5.0


@dataclass(slots=True)
class _Load:
    """A load that is not done: ordered, or (no `reason`) promised to a request, which brings it about."""

    request: RouteRequest
    reason: LoadReason | None
    begun_at_s: float
    victims: frozenset[ResidentKey]
    seen: bool = False


class Placement:
    """Give every event to `on`, in order, and carry its orders out, in order."""

    def __init__(self, me: NodeId, patience: Patience | None = None) -> None:
        """Know nothing yet."""
        self._patience = patience or Patience()
        self._reports: dict[NodeId, NodeReport] = {}
        # The reports as they will be once everything ordered is done; decisions are made on this.
        self._view = View({}, {}, me)
        self._loads: dict[tuple[NodeId, ResidentKey], _Load] = {}
        self._demand: dict[ResidentKey, Demand] = {}
        # Until when a node is not given that load again.
        self._failures: dict[tuple[NodeId, ResidentKey], float] = {}
        self._repeats: dict[Order, float] = {}

    @property
    def view(self) -> View:
        """The cluster as it will be once everything ordered is done."""
        return self._view

    def on(self, event: PlacementEvent, now_s: float) -> list[Order]:
        """Take an event in and say what is to be done now.

        1. An ask: told where its model is by now, or is about to be, or else where the request could begin soonest.
        2. A report: shows loads as done. A node that drains is emptied until its reports show that done.
        3. A failed load or a lost node: nothing is expected there any more.
        4. A tick: second copies for models whose queue costs more than a load, copies given back.
        """
        match event:
            case Reported(report):
                return self._reported(report, now_s)
            case NodeLost(node):
                self._lose(node)
                return []
            case Asked(ask, request):
                return [Placed(ask, self._place(request, now_s))]
            case LoadFailed():
                self._fail(event, now_s)
                return []
            case Tick():
                return self._tick(now_s)

    # Reports and what they change

    def _reported(self, report: NodeReport, now_s: float) -> list[Order]:
        known = self._reports.get(report.node)
        if known is not None:
            if not report.is_newer_than(known):
                return []
            report = report.completed(known)
        if report.state == "lost":
            self._lose(report.node)
            return []
        self._reports[report.node] = report
        resident = {(model.digest, model.embedding): model for model in report.resident}
        restarted = known is not None and known.started_at != report.started_at
        for key, load in [(key, load) for (node, key), load in self._loads.items() if node == report.node]:
            is_done = key in resident and can_serve(load.request, resident[key])
            if is_done or restarted:
                del self._loads[report.node, key]
            elif key[0] in report.loading:
                load.seen = True
            elif load.seen and load.reason is None:  # it ended without success, and whoever asked knows
                del self._loads[report.node, key]
            elif load.seen:  # LoadFailed may be lost with whoever was to bring it
                load.seen, load.begun_at_s = False, now_s
        self._foresee(report.node)
        return self._empty_drained(now_s)

    def _lose(self, node: NodeId) -> None:
        self._reports.pop(node, None)
        self._view = self._view.without(node)
        for at in [at for at in self._loads if at[0] == node]:
            del self._loads[at]
        for demand in self._demand.values():
            demand.copies.discard(node)

    def _foresee(self, node: NodeId) -> None:
        """Put a node into the view as it will be: ordered loads take their room, their victims are gone."""
        report = self._reports.get(node)
        if report is None:
            return
        gone: set[ResidentKey] = set()
        loading = dict(report.loading)
        for (there, key), load in self._loads.items():
            if there == node:
                gone |= load.victims
                footprint = load.request.footprint
                if footprint is not None and not any(key == (m.digest, m.embedding) for m in report.resident):
                    need = footprint.need(footprint.context(load.request.context_tokens), load.request.parallel or 1)
                    loading.setdefault(key[0], need.total_bytes)
        freed = [model for model in report.resident if (model.digest, model.embedding) in gone]
        gpu = sum(model.gpu_bytes for model in freed)
        ram = sum(model.size_bytes - model.gpu_bytes for model in freed)
        devices = report.devices
        if devices and gpu:
            first = replace_report(devices[0], free_bytes=devices[0].free_bytes + gpu)
            devices = (first, *devices[1:])
        expected = replace_report(
            report,
            resident=tuple(model for model in report.resident if model not in freed),
            loading=loading,
            devices=devices,
            ram=replace_report(report.ram, free_bytes=report.ram.free_bytes + ram),
        )
        self._view = self._view.corrected(expected)

    # Loads

    def _place(self, request: RouteRequest, now_s: float) -> NodeId | None:
        """Where a request is to go that needs a load; None: nobody could do it."""
        request = self._without_failed(request, now_s)
        answer = choose_route(self._view, request)
        if isinstance(answer, Route) and answer.kind == "resident":
            return answer.node
        if (node := self._coming(request)) is not None:
            return node
        # A load that runs already and will be too small is not overtaken on its own node, if another one can do it.
        too_small = frozenset(node for node, key in self._loads if key == _key(request))
        if too_small:
            elsewhere = choose_route(self._view, replace(request, excluded=request.excluded | too_small))
            answer = elsewhere if isinstance(elsewhere, Route) else answer
        if not isinstance(answer, Route):
            return None
        if answer.kind == "load":
            self._expect(answer.node, request, None, now_s, waits=answer.terms.queue_s > 0)
        return answer.node

    def _coming(self, request: RouteRequest) -> NodeId | None:
        """Where a load that runs already will do for the request."""
        for (node, key), load in self._loads.items():
            may_go = node not in request.excluded and (not request.only or node in request.only)
            if key == _key(request) and may_go and self._view.nodes[node].state == "up":
                asked = load.request
                enough = request.context_tokens is None or (asked.context_tokens or 0) >= request.context_tokens
                if enough and (request.parallel or 1) <= (asked.parallel or 1):
                    return node
        return None

    def _order_load(self, node: NodeId, request: RouteRequest, reason: LoadReason, now_s: float) -> list[Order]:
        victims = self._expect(node, request, reason, now_s)
        return [
            *(Unload(node, victim.digest, "room", victim.embedding) for victim in victims),
            Load(node, request.model, reason, request.embedding, request.context_tokens, request.parallel),
        ]

    def _expect(
        self, node: NodeId, request: RouteRequest, reason: LoadReason | None, now_s: float, *, waits: bool = False
    ) -> tuple[ResidentModel, ...]:
        """Count on a load from now on: it takes its room, and what it displaces is gone. Returns: what that is.

        `waits`: for what is in use there.
        """
        report, key = self._view.nodes[node], _key(request)
        footprint = request.footprint or self._view.footprint(request.model)
        assert footprint is not None  # no route is a load without
        request = replace(request, footprint=footprint)
        held = self._view.holders(request.model).get(node)
        _, _, victims = loading_terms(self._view, report, held, footprint, request, waits=waits)
        self._loads[node, key] = _Load(
            request, reason, now_s, frozenset((victim.digest, victim.embedding) for victim in victims)
        )
        self._foresee(node)
        return victims

    def _fail(self, event: LoadFailed, now_s: float) -> None:
        key = (event.model, event.embedding)
        if self._loads.pop((event.node, key), None) is not None:
            self._note_failure(event.node, key, now_s)
            self._foresee(event.node)

    def _note_failure(self, node: NodeId, key: ResidentKey, now_s: float) -> None:
        self._failures[node, key] = now_s + self._patience.failed_s
        if demand := self._demand.get(key):
            demand.copies.discard(node)

    def _without_failed(self, request: RouteRequest, now_s: float) -> RouteRequest:
        failed = [node for (node, key), until_s in self._failures.items() if key == _key(request) and until_s > now_s]
        return replace(request, excluded=request.excluded.union(failed)) if failed else request

    # Drains

    def _empty_drained(self, now_s: float) -> list[Order]:
        """Help nodes that drain, by their own word: what is used there is loaded elsewhere, what is idle leaves."""
        orders: list[Order] = []
        for node, report in sorted(self._reports.items()):
            if report.state != "draining":
                continue
            for model in report.resident:
                key = (model.digest, model.embedding)
                elsewhere = self._view.hosts(key[0], embedding=key[1]).items()
                has_other = any(n != node and host.report.state == "up" for n, host in elsewhere)
                is_used = bool(model.active or model.queued)
                if is_used and not has_other:
                    request = self._without_failed(
                        RouteRequest(
                            key[0], context_tokens=model.context_tokens, embedding=key[1], excluded=frozenset((node,))
                        ),
                        now_s,
                    )
                    answer = None if self._coming(request) else choose_route(self._view, request)
                    if isinstance(answer, Route) and answer.kind == "load":
                        orders += self._order_load(answer.node, request, "drained", now_s)
                elif not is_used:
                    orders += self._again(Unload(node, key[0], "drained", key[1]), now_s)
        return orders

    # Time

    def _tick(self, now_s: float) -> list[Order]:
        self._repeats = {order: at for order, at in self._repeats.items() if now_s - at < self._patience.repeat_s}
        for (node, key), load in list(self._loads.items()):
            if not load.seen and now_s - load.begun_at_s > self._patience.unseen_load_s:
                del self._loads[node, key]
                if load.reason is not None:
                    self._note_failure(node, key, now_s)
                self._foresee(node)
        orders = self._empty_drained(now_s)
        elsewhere: Counter[WeightsDigest] = Counter()
        for report in self._reports.values():
            elsewhere.update(report.waiting)
        for key in {(m.digest, m.embedding): None for r in self._view.nodes.values() for m in r.resident}:
            orders += self._follow_demand(key, elsewhere[key[0]], now_s)
        self._forget_idle(now_s)
        return orders

    def _follow_demand(self, key: ResidentKey, elsewhere: int, now_s: float) -> list[Order]:
        """Another copy where waiting has cost as much, one at a time; those that are superfluous are given back.

        `elsewhere`: requests that wait in the nodes' own queues.
        """
        known = self._view.hosts(key[0], embedding=key[1])
        hosts = {node: host for node, host in known.items() if host.report.state == "up"}
        if not hosts:
            return []
        demand = self._demand.setdefault(key, Demand())
        coming = [node for node, loading in self._loads if loading == key]
        half_life_s = self._patience.waited_half_life_s
        if demand.observe(hosts.values(), elsewhere, now_s, half_life_s=half_life_s) and not coming:
            request = self._without_failed(demand.request(key, hosts, spared_s=self._patience.spared_s), now_s)
            target = choose_route(self._view, request)
            if isinstance(target, Route) and demand.pays(target, hosts.values()):
                demand.bought(target.node)
                return self._order_load(target.node, request, "busy", now_s)
        spare = demand.spare(hosts, coming, now_s, after_s=self._patience.spare_s)
        return [] if spare is None else [Unload(spare, key[0], "given_back", key[1])]

    def _forget_idle(self, now_s: float) -> None:
        there = {(m.digest, m.embedding) for report in self._reports.values() for m in report.resident}
        there |= {key for _, key in self._loads}
        self._failures = {at: until_s for at, until_s in self._failures.items() if until_s > now_s}
        self._demand = {key: demand for key, demand in self._demand.items() if key in there}

    def _again(self, order: Order, now_s: float) -> list[Order]:
        """An order whose effect the reports will show: given once, and once more after a while without effect."""
        if now_s - self._repeats.get(order, -FOREVER_S) < self._patience.repeat_s:
            return []
        self._repeats[order] = now_s
        return [order]


def _key(request: RouteRequest) -> ResidentKey:
    return (request.model, request.embedding)
