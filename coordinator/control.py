"""This daemon's way to the coordinator: the node's Ray session, the agent in it, events out, orders in.

Which formation to be in is the election's choice; this carries it out and says how it stands. Without a way to the
coordinator the node goes on serving: only placement for others waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.orders import Order, PlacementEvent
from coordinator.wire import decode_order, encode_event
from node.agent import AgentDoor
from node.decoding import DECODE_ERRORS
from node.ray_session import (
    Actors,
    Formation,
    RayKeeper,
    RayLauncher,
    RayStatus,
    SessionPlan,
    choose_ports,
    new_token,
)
from node.ray_session.ports import FIRST_PORT
from node.report import NodeReport, encode_report

if TYPE_CHECKING:
    from node.identity import NodeId

log = logging.getLogger(__name__)

AGENT = "node.agent.actor:NodeAgent"
COORDINATOR = "coordinator.actor:Coordinator"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """What a node's Ray part needs to know.

    Attributes:
        state: folder for what outlives a session.
        certificate, key, authority: PEM files; the certificate names the node's current addresses.
        addresses: asked for those of this node as the others reach it, best first, whenever a session starts.
        patience: fields of `coordinator.placement.Patience` that differ from the defaults.
    """

    state: Path
    certificate: Path
    key: Path
    authority: Path
    addresses: Callable[[], Sequence[str]]
    first_port: int = FIRST_PORT
    patience: Mapping[str, float] = field(default_factory=dict)


class ControlPlane:
    """One node's part in the Ray cluster.

    Args:
        on_order: called in the event loop with each order for this node, or for one that it passes reports on for.
        on_reach: called when the coordinator begins to hear this node (""), or ceases to (the reason).
        on_status: called when the Ray session changes.
        on_head_lost: called once for a formation that this node should head and can't.
    """

    def __init__(
        self,
        me: NodeId,
        settings: ControlSettings,
        *,
        on_order: Callable[[Order], None],
        on_reach: Callable[[str], None] = lambda _: None,
        on_status: Callable[[RayStatus], None] = lambda _: None,
        on_head_lost: Callable[[Formation, str], None] = lambda _, __: None,
    ) -> None:
        self._me, self._settings, self._on_order = me, settings, on_order
        self._door = AgentDoor(me, self._take_orders, on_reach)
        launcher = RayLauncher(
            me=me,
            state=settings.state,
            certificate=settings.certificate,
            key=settings.key,
            authority=settings.authority,
            actors=Actors(agent=AGENT, coordinator=COORDINATOR, settings=settings.patience),
            before=self._open_door,
            addresses=settings.addresses,
            first_port=settings.first_port,
        )
        self._keeper = RayKeeper(me, launcher, on_status=on_status, on_head_lost=on_head_lost)

    @property
    def status(self) -> RayStatus:
        """How the Ray session stands."""
        return self._keeper.status

    @property
    def trouble(self) -> str:
        """Why the coordinator does not hear this node; "": it does."""
        return self._door.trouble

    def start(self) -> None:
        """Begin; nothing runs before `follow`."""
        self._keeper.start()

    def found(self, generation: int, address: str, removed: Iterable[NodeId] = ()) -> Formation:
        """A new formation with this node as its head, to be handed to the others over their mutual-TLS links.

        Args:
            address: of this node, as the others reach it.
            removed: all that were ever removed from the cluster, as far as is known here.
        Raises: PortsTaken.
        """
        ports = choose_ports(self._settings.first_port)
        return Formation(
            generation=generation,
            head=self._me,
            address=address,
            port=ports.gcs,
            token=new_token(),
            removed=frozenset(removed),
        )

    def follow(self, formation: Formation | None) -> None:
        """Be in this formation from now on; None: in none. Returns at once; `status` says what became of it."""
        self._keeper.want(formation)

    def renew(self, reason: str) -> None:
        """Start the Ray session anew: the certificate or the address has changed, or the agent stays away."""
        self._keeper.renew(reason)

    def report(self, report: NodeReport) -> None:
        """Hand the coordinator this node's newest report; at least once a second, or it is taken for lost."""
        self._door.report(encode_report(report))

    def tell(self, event: PlacementEvent) -> None:
        """Hand the coordinator an event."""
        self._door.tell(encode_event(event))

    async def close(self) -> None:
        """End the Ray session; models and streams do not notice. Never raises."""
        await self._keeper.close()
        await self._door.close()

    async def _open_door(self, plan: SessionPlan) -> None:
        await self._door.open(plan.agent_socket, plan.formation.generation)

    def _take_orders(self, bodies: tuple[bytes, ...]) -> None:
        for body in bodies:
            try:
                order = decode_order(body)
            except DECODE_ERRORS as error:
                log.error("an order of the coordinator can't be read: %s", error)
                continue
            self._on_order(order)
