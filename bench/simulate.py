"""`python -m bench.simulate`: the real routing, placement and queue on virtual time, beside simpler ways to route.

32 mixed machines, eight models, conversations with heavy tails. All policies get the same requests, the same machines
and the same placement (`coordinator.placement` loads, copies, evicts and gives back); they differ in which of the
loaded instances a request goes to:

- Ayni: `coordinator.route.choose_route`.
- least-loaded: the instance with the smallest share of its sequences taken; ties by chance.
- round-robin: each entry node takes its turns through the instances.

Every machine is an entry node. It knows the others by reports that are up to half a second old, and what it has sent
itself. Reported is the time to the first token of all requests after the first two minutes.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from bench.report import Goal, Row, table
from bench.simulated_flood import flood_rows
from bench.simulated_load import Conversation, conversations, models, separated
from bench.simulated_node import EQUAL_KINDS, KINDS, Kind, Node, Run
from bench.stats import median, percentile
from coordinator.cost import RouteRequest, can_serve
from coordinator.orders import Asked, Load, LoadFailed, Order, Placed, PlacementEvent, Reported, Tick, Unload
from coordinator.placement import Placement
from coordinator.route import Route, choose_route
from coordinator.view import Sent, View, WeightsDigest
from node.identity import NodeId
from scripts.bootstrap import say

REPORT_S = 0.5
# A request whose load has failed looks for another node after this.
RETRY_S = 0.5
WARM_UP_S = 120.0
HELD_SHARE = 0.6
FOREVER = float("inf")
Choose = Callable[[View, RouteRequest], NodeId | None]


def expected_time(view: View, request: RouteRequest) -> NodeId | None:
    """The real policy; None: it is the coordinator's to say where a model is to be loaded."""
    route = choose_route(view, request)
    return route.node if isinstance(route, Route) and route.kind == "resident" else None


def least_loaded(chance: random.Random) -> Choose:
    def choose(view: View, request: RouteRequest) -> NodeId | None:
        def load(node: NodeId) -> float:
            resident = hosts[node].resident
            sent = view.sent.get((node, request.model), Sent())
            return (resident.active + resident.queued + sent.requests) / resident.parallel

        hosts = view.hosts(request.model)
        ready = [node for node in hosts if can_serve(request, hosts[node].resident)]
        return min(ready, key=lambda node: (load(node), chance.random())) if ready else None

    return choose


def round_robin(chance: random.Random) -> Choose:
    turns: defaultdict[tuple[NodeId, WeightsDigest], count[int]] = defaultdict(lambda: count(chance.randrange(1000)))

    def choose(view: View, request: RouteRequest) -> NodeId | None:
        hosts = view.hosts(request.model)
        ready = sorted(node for node in hosts if can_serve(request, hosts[node].resident))
        return ready[next(turns[view.me, request.model]) % len(ready)] if ready else None

    return choose


@dataclass(slots=True)
class Outcome:
    """First tokens, in seconds; shares of the prompts' tokens that were cached; what went wrong."""

    first_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    refused: int = 0
    loads: int = 0

    @property
    def cached_share(self) -> float:
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


class Simulation:
    """One policy, one trace, from the first request to the last answer."""

    def __init__(self, asked: Sequence[Conversation], kinds: Sequence[tuple[int, Kind]], choose: Choose) -> None:
        self.choose, self.outcome = choose, Outcome()
        everything = {model.digest: model for model in models()}
        chance = random.Random(99)
        machines = [kind for number, kind in kinds for _ in range(number)]
        self.nodes: dict[NodeId, Node] = {}
        for number, kind in enumerate(machines):
            held = {digest: model for digest, model in everything.items() if chance.random() < HELD_SHARE}
            node = NodeId(f"{number:016x}")
            self.nodes[node] = Node(node, kind, held, everything)
        self.entries = list(self.nodes)
        self.view = View({}, {}, self.entries[0])
        self.placement = Placement(self.entries[0])
        self.sent: dict[NodeId, dict[tuple[NodeId, WeightsDigest], Sent]] = {node: {} for node in self.nodes}
        self.waiting: dict[str, Run] = {}
        self.now, self.numbers = 0.0, count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.open = 0
        for number, node in enumerate(self.nodes):
            self.at(number * REPORT_S / len(self.nodes), lambda node=node: self.report_regularly(node))  # type: ignore[misc]
        self.at(1.0, self.tick)
        for conversation in asked:
            self.open += 1
            self.at(conversation.start_s, lambda it=conversation: self.arrive(it, 0))  # type: ignore[misc]

    def at(self, time_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time_s, next(self.numbers), what))

    def run(self) -> Outcome:
        while self.open:
            self.now, _, what = heapq.heappop(self.events)
            what()
        return self.outcome

    # Requests

    def arrive(self, conversation: Conversation, index: int) -> None:
        self.route(Run(conversation, conversation.turns[index], self.now))

    def route(self, run: Run) -> None:
        entry = self.entries[run.conversation.entry]
        request = run.conversation.request(run.turn)
        view = View(self.view.nodes, self.view.heard_at_s, entry, self.sent[entry])
        self.view.loaders()
        view._index.extend(self.view._index)  # 32 entry nodes know the same reports: indexed once
        node = self.choose(view, request)
        if node is None:
            ask = str(next(self.numbers))
            self.waiting[ask] = run
            self.tell(Asked(ask, request))
            return
        before = self.sent[entry].get((node, request.model), Sent())
        tokens = request.prompt_tokens
        self.sent[entry][node, request.model] = Sent(before.requests + 1, before.prompt_tokens + tokens)
        self.dispatch(node, run)

    def dispatch(self, name: NodeId, run: Run) -> None:
        node = self.nodes[name]
        model = run.conversation.model.digest
        instance = node.instances.get(model)
        if instance is None:  # it is to be loaded there, or has left meanwhile
            node.waiting.setdefault(model, []).append(run)
            if model not in node.loading:
                self.load(name, model)
            return
        node.advance(self.now)
        instance.waiting.append(run)
        self.settle(node)

    def settle(self, node: Node) -> None:
        for instance in node.instances.values():
            for what, run in instance.settle(self.now):
                if what == "first":
                    self.measure(run)
                else:
                    self.go_on(run)
        node.version += 1
        if (soon := node.next_s()) < FOREVER:
            self.at(self.now + soon, lambda version=node.version: self.wake(node, version))  # type: ignore[misc]

    def wake(self, node: Node, version: int) -> None:
        if node.version == version:
            node.advance(self.now)
            self.settle(node)

    def measure(self, run: Run) -> None:
        if run.came_s >= WARM_UP_S:
            self.outcome.first_s.append(run.first_s - run.came_s)
            self.outcome.prompt_tokens += run.turn.prompt_tokens
            self.outcome.cached_tokens += run.cached

    def go_on(self, run: Run) -> None:
        following = run.conversation.turns.index(run.turn) + 1
        if following == len(run.conversation.turns):
            self.open -= 1
        else:
            self.at(self.now + run.turn.pause_s, lambda: self.arrive(run.conversation, following))

    # Reports and placement

    def report_regularly(self, name: NodeId) -> None:
        self.report(name)
        self.at(self.now + REPORT_S, lambda: self.report_regularly(name))

    def report(self, name: NodeId) -> None:
        node = self.nodes[name]
        node.advance(self.now)
        node.expire(self.now)
        self.settle(node)
        report = node.report(self.now)
        self.view = self.view.with_report(report, self.now)
        for sent in self.sent.values():
            for key in [key for key in sent if key[0] == name]:
                del sent[key]
        self.tell(Reported(report))

    def tick(self) -> None:
        self.tell(Tick())
        self.at(self.now + 1.0, self.tick)

    def tell(self, event: PlacementEvent) -> None:
        for order in self.placement.on(event, self.now):
            self.carry_out(order)

    def carry_out(self, order: Order) -> None:
        match order:
            case Placed(ask, node):
                run = self.waiting.pop(ask)
                if node is not None:
                    self.dispatch(node, run)
                else:
                    self.outcome.refused += 1
                    self.open -= 1
            case Unload(name, model):
                instance = self.nodes[name].instances.get(model)
                if instance and not (instance.is_busy or instance.waiting):
                    del self.nodes[name].instances[model]
            case Load(name, model):
                self.load(name, model)
            case _:
                pass

    def load(self, name: NodeId, model: WeightsDigest) -> None:
        """Begin to load, after what the node is loading already."""
        self.outcome.loads += 1
        node = self.nodes[name]
        begins = max([self.now, *node.loading.values()])
        node.loading[model] = begins + node.load_s(node.everything[model])
        self.at(node.loading[model], lambda: self.loaded(name, model))

    def loaded(self, name: NodeId, model: WeightsDigest) -> None:
        node = self.nodes[name]
        node.advance(self.now)
        node.loading.pop(model, None)
        there = model in node.instances or node.finish_load(node.everything[model], self.now)
        if not there:
            self.tell(LoadFailed(name, model, "no room"))
        self.settle(node)
        self.report(name)
        for run in node.waiting.pop(model, ()):
            if there:
                self.dispatch(name, run)
            else:
                self.at(self.now + RETRY_S, lambda run=run: self.route(run))  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A trace on machines, and how much better than each simpler policy the real one is to be."""

    name: str
    kinds: Sequence[tuple[int, Kind]]
    asked: list[Conversation]
    least_loaded: Goal | None
    round_robin: Goal | None


def scenarios(*, seconds: float, seed: int) -> list[Scenario]:
    """Two loads, with and without shared prefixes; and equal machines, where only the prefixes make a difference."""
    better, much_better, no_worse = (Goal("ratio", "<=", bound) for bound in (0.6, 0.4, 1.0))
    found = []
    for label, per_s in (("", 1.0), (", busy", 1.5)):
        shared = conversations(models(), per_s=per_s, seconds=seconds, entries=32, seed=seed)
        found.append(Scenario(f"shared prefixes{label}", KINDS, shared, better, much_better))
        found.append(Scenario(f"nothing shared{label}", KINDS, separated(shared, seed), no_worse, no_worse))
        found.append(Scenario(f"shared, equal machines{label}", EQUAL_KINDS, shared, None, None))
    return found


def run_scenario(scenario: Scenario, seed: int) -> list[Row]:
    outcomes = {}
    for name, choose in (
        ("Ayni", expected_time),
        ("least-loaded", least_loaded(random.Random(seed))),
        ("round-robin", round_robin(random.Random(seed))),
    ):
        outcomes[name] = outcome = Simulation(scenario.asked, scenario.kinds, choose).run()
        say(
            f"{scenario.name}, {name}: {len(outcome.first_s)} requests, median {median(outcome.first_s):.3f} s, "
            f"p90 {percentile(outcome.first_s, 0.9):.2f} s, p99 {percentile(outcome.first_s, 0.99):.2f} s, "
            f"cached {outcome.cached_share:.0%}, loads {outcome.loads}, refused {outcome.refused}"
        )
    ours = outcomes["Ayni"]
    rows = []
    for peer, goal in (("least-loaded", scenario.least_loaded), ("round-robin", scenario.round_robin)):
        theirs = outcomes[peer]
        for share, measure, bound in ((0.5, "median", goal), (0.9, "p90", None), (0.99, "p99", None)):
            mine, other = percentile(ours.first_s, share), percentile(theirs.first_s, share)
            rows.append(Row("simulate", scenario.name, f"first token, {measure}", "s", mine, other, peer, bound))
        rows.append(
            Row(
                "simulate",
                scenario.name,
                "prompt cached",
                "%",
                ours.cached_share * 100,
                theirs.cached_share * 100,
                peer,
            )
        )
    return rows


def main(argv: list[str]) -> int:
    """Print the table; 1 where a goal is missed."""
    seconds, seed = (300.0 if "--quick" in argv else 900.0), 7
    rows: list[Row] = []
    for scenario in scenarios(seconds=seconds, seed=seed):
        rows += run_scenario(scenario, seed)
    rows += flood_rows(seed)
    print(table(rows))
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
