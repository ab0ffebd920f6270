"""Who speaks to the coordinator and who has to hear what it decides: agents, fences and addresses around `Placement`.

Pure, time passed in: what nodes say goes in, letters (a node and an order) come out. `coordinator.actor` carries
them. A node is heard through its agent; one without Ray through the daemon that passes its reports on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from coordinator.orders import NodeLost, Order, Placed, PlacementEvent, Reported, Tick
from coordinator.placement import Placement
from coordinator.wire import decode_event
from node.decoding import DECODE_ERRORS
from node.report import decode_report

if TYPE_CHECKING:
    from node.identity import NodeId

log = logging.getLogger(__name__)

Heard: TypeAlias = Literal["heard", "unknown", "stale"]

# Agents report about once a second. Their own daemons notice losses sooner and say so.
SILENT_S = 5.0
# Somebody else's word that a node is lost does not count against the node's own, given as lately as this.
FRESH_S = 1.5


class Letter(NamedTuple):
    """An order and the node whose daemon has to get it; an order about a node without Ray goes to its messenger."""

    to: NodeId
    order: Order


@dataclass(slots=True)
class _Agent:
    incarnation: str
    heard_at_s: float


class Switchboard:
    """The coordinator's state, but for the wires."""

    def __init__(self, generation: int, placement: Placement) -> None:
        self.generation = generation
        self._placement = placement
        self._agents: dict[NodeId, _Agent] = {}
        # Nodes without an agent: who passes their reports on, and when it did so last.
        self._messengers: dict[NodeId, tuple[NodeId, float]] = {}

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        """The nodes that are heard."""
        return (*self._agents, *self._messengers)

    def hello(self, node: NodeId, generation: int, incarnation: str, now_s: float) -> bool:
        """An agent introduces itself. Returns: whether it is one of ours; of two for one node the later one counts."""
        if generation != self.generation:
            return False
        self._agents[node] = _Agent(incarnation, now_s)
        self._messengers.pop(node, None)
        return True

    def take(
        self,
        node: NodeId,
        generation: int,
        incarnation: str,
        report: bytes | None,
        events: Iterable[bytes],
        now_s: float,
    ) -> tuple[Heard, list[Letter]]:
        """Take in what an agent brings, in order, the report first.

        1. Of another generation or an older raylet: "stale", and nothing of it counts.
        2. Not introduced: "unknown", it has to say hello and bring everything again.
        3. "heard": what can't be understood is left out, what follows from the rest comes back.
        """
        agent = self._agents.get(node)
        if generation != self.generation or (agent is not None and agent.incarnation != incarnation):
            return "stale", []
        if agent is None:
            return "unknown", []
        agent.heard_at_s = now_s
        letters: list[Letter] = []
        for event in self._read(node, report, events):
            try:
                letters += self._on(node, event, now_s)
            except Exception:  # one member's nonsense is no reason to decide nothing for the others
                log.exception("an event of node %s makes no sense", node)
        return "heard", letters

    def tick(self, now_s: float) -> list[Letter]:
        """Time has passed: nodes that have fallen silent are lost."""
        letters: list[Letter] = []
        for node in [node for node, agent in self._agents.items() if now_s - agent.heard_at_s > SILENT_S]:
            letters += self._lose(node, now_s)
        for node in [node for node, (_, at_s) in self._messengers.items() if now_s - at_s > SILENT_S]:
            letters += self._lose(node, now_s)
        return letters + self._post(self._placement.on(Tick(), now_s))

    def _read(self, node: NodeId, report: bytes | None, events: Iterable[bytes]) -> Iterable[PlacementEvent]:
        try:
            if report is not None:
                yield Reported(decode_report(report))
        except DECODE_ERRORS as error:
            log.error("the report of node %s can't be read: %s", node, error)
        for body in events:
            try:
                yield decode_event(body)
            except DECODE_ERRORS as error:
                log.error("an event of node %s can't be read: %s", node, error)

    def _on(self, sender: NodeId, event: PlacementEvent, now_s: float) -> list[Letter]:
        match event:
            case Reported(report) if report.node != sender:
                if report.node in self._agents:
                    return []  # it speaks for itself
                self._messengers[report.node] = (sender, now_s)
            case NodeLost(node):
                heard = self._agents.get(node)
                if heard is not None and now_s - heard.heard_at_s < FRESH_S:
                    return []
                return self._lose(node, now_s)
        return self._post(self._placement.on(event, now_s), asker=sender)

    def _lose(self, node: NodeId, now_s: float) -> list[Letter]:
        """Forget a node."""
        self._agents.pop(node, None)
        self._messengers.pop(node, None)
        return self._post(self._placement.on(NodeLost(node), now_s))

    def _post(self, orders: Iterable[Order], asker: NodeId | None = None) -> list[Letter]:
        letters = []
        for order in orders:
            to = asker if isinstance(order, Placed) else self._way_to(order.node)
            if to is not None:
                letters.append(Letter(to, order))
        return letters

    def _way_to(self, node: NodeId) -> NodeId | None:
        if node in self._agents:
            return node
        messenger = self._messengers.get(node)
        return messenger[0] if messenger is not None else None
