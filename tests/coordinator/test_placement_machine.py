"""Placement beside a cluster that carries its orders out late, fails at some, loses nodes and reports when it likes."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from coordinator.cost import RouteRequest
from coordinator.orders import (
    Asked,
    Load,
    LoadFailed,
    NodeLost,
    Order,
    Placed,
    PlacementEvent,
    Refused,
    Reported,
    Tick,
    Unload,
    Withdrawn,
)
from coordinator.placement import Patience, Placement
from coordinator.view import HeldModel, NodeReport, RamReport, ResidentModel, WeightsDigest
from node.footprint import Footprint
from node.identity import NodeId
from node.report import ManifestDigest
from tests.support.clusters import GIB, ME, node_id

MODELS = [WeightsDigest(f"sha256:{number}") for number in range(4)]
SIZES = dict(zip(MODELS, (1 * GIB, 2 * GIB, 4 * GIB, 20 * GIB), strict=True))  # the last fits nowhere
CAPACITY = 6 * GIB
ORDER_LIMIT_S = 10.0
NODES = [node_id(letter) for letter in "abc"]


def footprint(model: WeightsDigest) -> Footprint:
    return Footprint(file_bytes=SIZES[model], layer_bytes=SIZES[model], train_context_tokens=4096)


def asking(model: WeightsDigest) -> RouteRequest:
    return RouteRequest(model, prompt_tokens=10, footprint=footprint(model))


@dataclass
class Copy:
    active: int = 0
    queued: int = 0
    pinned: bool = False
    last_used_s: float = 0.0


@dataclass
class Machine:
    """What really is on a node; orders wait in `inbox` until it gets round to them."""

    node: NodeId
    copies: dict[WeightsDigest, Copy] = field(default_factory=dict)
    loading: WeightsDigest | None = None
    inbox: list[tuple[float, Order]] = field(default_factory=list)
    draining: bool = False
    alive: bool = True
    sequence: int = 0
    started_at: float = 0.0

    def free(self) -> int:
        used = sum(SIZES[model] for model in self.copies) + (SIZES[self.loading] if self.loading else 0)
        return CAPACITY - used

    def report(self, now: float) -> NodeReport:
        self.sequence += 1
        in_load = SIZES[self.loading] if self.loading else 0
        return NodeReport(
            node=self.node,
            name=self.node[0],
            sequence=self.sequence,
            started_at=self.started_at,
            state="draining" if self.draining else "up",
            # What is being loaded is promised, not yet taken.
            ram=RamReport(total_bytes=CAPACITY, free_bytes=self.free() + in_load),
            resident=tuple(
                ResidentModel(
                    digest=model,
                    manifest=ManifestDigest(model),
                    name=model,
                    context_tokens=4096,
                    size_bytes=SIZES[model],
                    active=copy.active,
                    queued=copy.queued,
                    pinned=copy.pinned and not self.draining,
                    mean_job_s=5.0,
                    idle_s=0.0 if copy.active else now - copy.last_used_s,
                )
                for model, copy in self.copies.items()
            ),
            loading={self.loading: SIZES[self.loading]} if self.loading else {},
            held=tuple(
                HeldModel(
                    digest=model,
                    manifest=ManifestDigest(model),
                    name=model,
                    size_bytes=SIZES[model],
                    present_bytes=SIZES[model],
                    footprint=footprint(model),
                )
                for model in MODELS
            ),
        )


class PlacementMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.placement = Placement(ME)
        self.machines = {node: Machine(node) for node in NODES}
        self.open: dict[str, WeightsDigest] = {}
        self.asks = 0
        self.heard: dict[NodeId, NodeReport] = {}
        self.ordered: dict[NodeId, dict[WeightsDigest, float]] = {node: {} for node in NODES}
        self.drained: set[NodeId] = set()
        for node in NODES:
            self.say(node)

    # What happens

    def tell(self, event: PlacementEvent) -> None:
        for order in self.placement.on(event, self.now):
            self.check(order)
            match order:
                case Placed(ask) | Refused(ask):
                    del self.open[ask]  # a KeyError here is an ask answered twice
                case Load() | Unload():
                    self.machines[order.node].inbox.append((self.now, order))
                case _:
                    pass

    def check(self, order: Order) -> None:
        match order:
            case Load(node, model):
                assert self.machines[node].alive
                assert node in self.heard
                assert node not in self.drained
                assert not self.is_ordered(node, model), "ordered twice"
                assert SIZES[model] <= CAPACITY
                self.ordered[node][model] = self.now
                if order.reason == "asked":
                    others = [n for n in NODES if n != node and self.is_ordered(n, model)]
                    assert not others, "somebody loads it already"
            case Unload(node, model, reason):
                known = [copy for copy in self.heard[node].resident if copy.digest == model]
                assert known, "not known to be there"
                assert (known[0].active, known[0].queued) == (0, 0)
                assert reason == "drained" or not known[0].pinned
            case Placed(ask, node):
                assert any(copy.digest == self.open[ask] for copy in self.heard[node].resident)
                assert node not in self.drained
            case Refused(ask, refusal):
                assert refusal.reason in ("no_room", "no_node")
            case _:
                pass

    def is_ordered(self, node: NodeId, model: WeightsDigest) -> bool:
        """Whether a load was ordered and is neither done nor failed, nor given up because no report has shown it."""
        ordered_at = self.ordered[node].get(model)
        seen = node in self.heard and model in self.heard[node].loading
        return ordered_at is not None and (seen or self.now - ordered_at <= Patience().unseen_load_s)

    def say(self, node: NodeId) -> None:
        report = self.machines[node].report(self.now)
        self.heard[node] = report
        for copy in report.resident:
            self.ordered[node].pop(copy.digest, None)
        (self.drained.add if report.state == "draining" else self.drained.discard)(node)
        self.tell(Reported(report))

    def work(self, node: NodeId, *, fails: bool = False) -> None:
        """The node gets round to its next order, or ends the load it is at."""
        machine = self.machines[node]
        if machine.loading:
            model, machine.loading = machine.loading, None
            if fails:
                self.fail(node, model)
            else:
                machine.copies[model] = Copy(last_used_s=self.now)
            return
        if not machine.inbox:
            return
        match machine.inbox.pop(0)[1]:
            case Load(_, model) if model not in machine.copies:
                if machine.free() >= SIZES[model]:
                    machine.loading = model
                else:
                    self.fail(node, model)
            case Unload(_, model) if model in machine.copies and not machine.copies[model].active:
                del machine.copies[model]
            case _:
                pass

    def fail(self, node: NodeId, model: WeightsDigest) -> None:
        self.ordered[node].pop(model, None)
        self.tell(LoadFailed(node, model, "no"))

    # Rules

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for node in NODES:
            if self.machines[node].alive:
                # A live node may take its time, but not longer than placement waits to see a load.
                while (inbox := self.machines[node].inbox) and self.now - inbox[0][0] > ORDER_LIMIT_S:
                    self.work(node)
                self.say(node)
        self.tell(Tick())

    @rule(model=st.sampled_from(MODELS), patience_s=st.sampled_from([3.0, 100.0]))
    def ask(self, model: WeightsDigest, patience_s: float) -> None:
        self.asks += 1
        self.open[str(self.asks)] = model
        self.tell(Asked(str(self.asks), asking(model), self.now + patience_s))

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if self.open:
            ask = data.draw(st.sampled_from(sorted(self.open)))
            del self.open[ask]
            self.tell(Withdrawn(ask))

    @rule(node=st.sampled_from(NODES), fails=st.booleans())
    def node_works(self, node: NodeId, fails: bool) -> None:
        if self.machines[node].alive:
            self.work(node, fails=fails)

    @rule(node=st.sampled_from(NODES))
    def node_reports(self, node: NodeId) -> None:
        if self.machines[node].alive:
            self.say(node)

    @rule(
        node=st.sampled_from(NODES),
        model=st.sampled_from(MODELS),
        active=st.integers(0, 1),
        queued=st.sampled_from([0, 0, 9]),
    )
    def requests_come_and_go(self, node: NodeId, model: WeightsDigest, active: int, queued: int) -> None:
        if copy := self.machines[node].copies.get(model):
            copy.active, copy.queued, copy.last_used_s = active, queued if active else 0, self.now

    @rule(node=st.sampled_from(NODES))
    def node_dies(self, node: NodeId) -> None:
        if self.machines[node].alive and sum(machine.alive for machine in self.machines.values()) > 1:
            self.machines[node] = Machine(node, alive=False)
            self.heard.pop(node)
            self.ordered[node] = {}
            self.tell(NodeLost(node))

    @rule(node=st.sampled_from(NODES))
    def node_returns(self, node: NodeId) -> None:
        if not self.machines[node].alive:
            self.machines[node] = Machine(node, started_at=self.now + 1)
            self.say(node)

    @rule(node=st.sampled_from(NODES))
    def daemon_restarts_unnoticed(self, node: NodeId) -> None:
        if self.machines[node].alive:
            self.machines[node] = Machine(node, started_at=self.now + 1)
            self.ordered[node] = {}
            self.now += 1
            self.say(node)

    @rule(node=st.sampled_from(NODES), model=st.sampled_from(MODELS), pinned=st.booleans())
    def node_pins_or_no_longer(self, node: NodeId, model: WeightsDigest, pinned: bool) -> None:
        if copy := self.machines[node].copies.get(model):
            copy.pinned = pinned

    @rule(node=st.sampled_from(NODES), draining=st.booleans())
    def node_drains_or_takes_work_again(self, node: NodeId, draining: bool) -> None:
        self.machines[node].draining = draining

    # What always holds

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        for node, report in self.placement.view.nodes.items():
            promised = sum(report.loading.values()) + sum(SIZES[copy.digest] for copy in report.resident)
            assert promised <= CAPACITY, node

    def teardown(self) -> None:
        """Left alone with live nodes, it answers everybody and empties what is drained."""
        for node in NODES:
            if not self.machines[node].alive:
                self.node_returns(node)
        for _ in range(40):
            self.now += 4
            for machine in self.machines.values():
                for copy in machine.copies.values():
                    copy.active = copy.queued = 0
                for _ in range(4):
                    self.work(machine.node)
                self.say(machine.node)
            self.tell(Tick())
        assert not self.open
        assert not any(machine.inbox or machine.loading for machine in self.machines.values())
        for node in self.drained:
            assert not self.machines[node].copies


TestPlacementMachine = PlacementMachine.TestCase
TestPlacementMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
