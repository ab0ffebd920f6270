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
    Reported,
    Tick,
    Unload,
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
    inbox: list[tuple[float, Load | Unload]] = field(default_factory=list)
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
        self.heard: dict[NodeId, NodeReport] = {}
        # Loads that are expected, ordered or promised.
        self.expected: dict[NodeId, dict[WeightsDigest, float]] = {node: {} for node in NODES}
        self.drained: set[NodeId] = set()
        for node in NODES:
            self.say(node)

    # What happens

    def tell(self, event: PlacementEvent) -> None:
        for order in self.placement.on(event, self.now):
            self.check(order)
            if not isinstance(order, Placed):
                self.machines[order.node].inbox.append((self.now, order))

    def check(self, order: Order) -> None:
        match order:
            case Load(node, model):
                assert self.machines[node].alive
                assert node in self.heard
                assert node not in self.drained
                assert not self.is_expected(node, model), "ordered twice"
                assert SIZES[model] <= CAPACITY
                self.expected[node][model] = self.now
            case Unload(node, model, reason):
                known = [copy for copy in self.heard[node].resident if copy.digest == model]
                assert known, "not known to be there"
                assert (known[0].active, known[0].queued) == (0, 0)
                assert reason == "drained" or not known[0].pinned
            case Placed(model, node) if node is not None:
                assert self.machines[node].alive
                assert node in self.heard
                assert node not in self.drained
                assert SIZES[WeightsDigest(model)] <= CAPACITY
                if not any(copy.digest == model for copy in self.heard[node].resident):
                    at_it = [n for n in NODES if self.is_expected(n, WeightsDigest(model))]
                    assert not at_it or node in at_it, "somebody loads it already"
                    self.expected[node].setdefault(WeightsDigest(model), self.now)
            case Placed():
                pass

    def is_expected(self, node: NodeId, model: WeightsDigest) -> bool:
        """Whether a load is neither done nor failed, nor given up because no report has shown it."""
        begun_at = self.expected[node].get(model)
        seen = node in self.heard and model in self.heard[node].loading
        if begun_at is None or node in self.drained:
            return False
        return seen or self.now - begun_at <= Patience().unseen_load_s

    def say(self, node: NodeId) -> None:
        report = self.machines[node].report(self.now)
        if (before := self.heard.get(node)) is not None:
            for model in before.loading.keys() - report.loading.keys():
                self.expected[node].pop(model, None)
        self.heard[node] = report
        for copy in report.resident:
            self.expected[node].pop(copy.digest, None)
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
        self.expected[node].pop(model, None)
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

    @rule(model=st.sampled_from(MODELS), comes=st.booleans())
    def ask(self, model: WeightsDigest, comes: bool) -> None:
        """Where to load; the request then comes there, unless whoever asked is gone."""
        (answer,) = self.placement.on(Asked(model, asking(model)), self.now)
        self.check(answer)
        assert isinstance(answer, Placed)
        if answer.node is not None and comes:
            self.request(self.machines[answer.node], model)

    def request(self, machine: Machine, model: WeightsDigest) -> None:
        """As a node's supervisor does: what was not used for longest makes room, as far as it is idle."""
        if model in machine.copies or machine.loading:
            return
        idle = [at for at, copy in machine.copies.items() if not (copy.active or copy.queued or copy.pinned)]
        idle.sort(key=lambda at: -machine.copies[at].last_used_s)
        while idle and machine.free() < SIZES[model]:
            del machine.copies[idle.pop()]
        if machine.free() >= SIZES[model]:
            machine.loading = model

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
            self.expected[node] = {}
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
            self.expected[node] = {}
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
        """Left alone with live nodes, it waits for nothing and empties what is drained."""
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
        assert not any(machine.inbox or machine.loading for machine in self.machines.values())
        assert not any(report.loading for report in self.placement.view.nodes.values())
        for node in self.drained:
            assert not self.machines[node].copies


TestPlacementMachine = PlacementMachine.TestCase
TestPlacementMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
