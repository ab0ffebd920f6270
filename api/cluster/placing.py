"""This member's part in deciding what is loaded where: the election of a head, its Ray session, the orders it gives.

Everything here may fail, and requests are served all the same: routing needs only the reports of `node.peers`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from coordinator.control import ControlPlane, ControlSettings
from coordinator.election import Alone, Claim, Election, Follow, Form
from coordinator.orders import Asked, Load, LoadFailed, NodeLost, Order, Placed, Reported, Unload
from coordinator.wire import decode_order, encode_order
from node.decoding import DECODE_ERRORS
from node.errors import NodeError
from node.identity import UnusableFile, read_private, write_private
from node.logs import log_event
from node.peers import Call, Caller, CallRefused, WentDown
from node.ray_session import Formation, RaySessionError, RayStatus
from node.supervisor import LoadOptions
from registry import Digest, Model, RegistryError

if TYPE_CHECKING:
    from api.cluster.member import ClusterNode
    from coordinator.cost import RouteRequest
    from node.identity import NodeId
    from node.peers import Change
    from node.report import NodeReport, WeightsDigest

log = logging.getLogger(__name__)

LOOK_S = 0.5
# The coordinator answers within milliseconds. One that does not is not worth waiting for: the node that asks can choose
# well enough by itself.
ASK_LIMIT_S = 0.5


class FormationAsk(Struct, frozen=True, kw_only=True):
    """How to take part in a generation, asked of its head."""

    generation: int


class OrderAsk(Struct, frozen=True, kw_only=True):
    """An order of the coordinator for a node that has no Ray, passed on by the one that speaks for it."""

    order: bytes


class Done(Struct, frozen=True, kw_only=True):
    """It was taken."""


class Placing:
    """One member's part."""

    def __init__(self, member: ClusterNode, folder: Path) -> None:
        self._member, self._folder = member, folder
        self._highest_path = folder / "generation"
        self._written = self._read_highest()
        self._election = Election(member.me, highest=self._written)
        identity = member.identity
        self.control = ControlPlane(
            member.me,
            ControlSettings(
                state=folder / "ray",
                certificate=identity.certificate_path,
                key=identity.key_path,
                authority=identity.ca_path,
                addresses=lambda: member.hosts,
                first_port=member.settings.ray_port,
            ),
            on_order=self._take_order,
            on_reach=self._on_reach,
            on_status=self._on_status,
            on_head_lost=self._on_head_lost,
        )
        self._formation: Formation | None = None
        self._formations: dict[Claim, Formation] = {}
        self._claim: Claim | None = None
        self._reach = "not started"
        self._asks: dict[str, asyncio.Future[NodeId | None]] = {}
        self._ask_numbers = count()
        self._tasks: set[asyncio.Task[None]] = set()

    def calls(self) -> dict[str, Call]:
        """What this answers to other nodes."""
        return {
            "formation": Call(FormationAsk, self._answer_formation),
            "order": Call(OrderAsk, self._answer_order),
        }

    @property
    def _mine(self) -> Formation | None:
        """What this node heads."""
        formation = self._formation
        return formation if formation is not None and formation.head == self._member.me else None

    @property
    def status(self) -> dict[str, Any]:
        """For people."""
        status = self.control.status
        reason = status.reason or self.control.trouble if status.phase != "off" else status.reason
        return {"state": status.phase, "role": status.role, "generation": status.generation, "reason": reason}

    def start(self) -> None:
        """Begin to take part; a session starts once there is another member."""
        self.control.start()
        self._own(self._keep())

    async def close(self) -> None:
        """End the session."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.control.close()

    async def place(self, request: RouteRequest) -> NodeId | None:
        """Where the coordinator wants a model loaded for a request; None: it can't say, or not in time."""
        if self._reach:
            return None
        ask = str(next(self._ask_numbers))
        answer: asyncio.Future[NodeId | None] = asyncio.get_running_loop().create_future()
        self._asks[ask] = answer
        # What is cached counts where the model is in memory, and there it is not to be loaded.
        self.control.tell(Asked(ask, replace(request, prefix_hashes=(), prefix_tokens=())))
        try:
            async with asyncio.timeout(ASK_LIMIT_S):
                return await answer
        except TimeoutError:
            log.info("the coordinator did not say in time where to load a model")
            return None
        finally:
            del self._asks[ask]

    def take(self, change: Change) -> None:
        """What `node.peers` found out."""
        if isinstance(change, WentDown):
            self.control.tell(NodeLost(change.node))

    def renew(self) -> None:
        """The certificate or the addresses of this machine have changed.

        A head whose address is gone can't go on elsewhere: a new generation is formed, by it or by another node.
        """
        if self._mine is not None and self._mine.address not in self._member.hosts:
            log.info("no longer heading generation=%d: its address is gone", self._mine.generation)
            self._part()
        else:
            self.control.renew("the certificate or an address has changed")

    async def _keep(self) -> None:
        while True:
            try:
                await self._look()
            except (NodeError, RaySessionError, OSError) as error:
                log.info("no part in the placement yet: %s", error)
            except Exception:  # placement is not worth a daemon
                log.exception("taking part in the placement failed")
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        removed = self._member.identity.ledger.removed_nodes
        if self._formation is not None and not self._formation.keeps_out(removed):
            # Ray knows no revocations: who was removed can run programs here as long as the token counts. Whoever heads
            # the generation does the same, and then there is a new one.
            log.info("leaving generation=%d: a node that may know its token was removed", self._formation.generation)
            self._part()
        self._election.forget(removed)
        self._stand(self._claim)
        report = self._member.report()
        nodes = {node: other for node, other in self._member.view.now.nodes.items() if node not in removed}
        decision = self._election.decide(_with_ray(nodes), time.monotonic())
        self._write_highest()
        match decision:
            case Form(generation):
                await self._found(generation)
            case Follow(claim):
                await self._follow(claim)
            case Alone() if self._claim is None or self._claim.head != self._member.me:
                self._part()
        self.control.report(report)
        if self._mine is not None and not self._reach:
            for other in nodes.values():
                if not other.ray_version and other.state != "lost":
                    self.control.tell(Reported(other))

    async def _found(self, generation: int) -> None:
        """Become head; the claim stands from now on, so that nobody else begins the same."""
        removed = self._member.identity.ledger.removed_nodes
        try:
            # Looking for free ports takes a while where many are taken.
            formation = await asyncio.to_thread(self.control.found, generation, self._member.hosts[0], removed)
        except (RaySessionError, OSError) as error:
            log.warning("can't head generation %d: %s", generation, error)
            self._election.could_not_form(time.monotonic())
            self._part()
            return
        self._election.highest = generation
        self._write_highest()
        log.info("heading generation=%d", generation)
        self._take_part(Claim(generation, self._member.me), formation)

    async def _follow(self, claim: Claim) -> None:
        if claim.head == self._member.me:
            if self._mine is None or self._mine.generation != claim.generation:
                self._stand(None)  # a claim of the process before this one
                return
            formation = self._mine
        else:
            found = self._formations.get(claim)
            if found is None:
                ask = FormationAsk(generation=claim.generation)
                found = await self._member.peers.call(claim.head, "formation", ask, Formation)
                self._formations = {claim: found}
            formation = found
        if not formation.keeps_out(self._member.identity.ledger.removed_nodes):
            return  # its head does not know of the removal yet
        self._take_part(claim, formation)

    def _take_part(self, claim: Claim, formation: Formation) -> None:
        self._formation = formation
        self._stand(claim)
        self.control.follow(formation)

    def _part(self) -> None:
        self._formation = None
        self._stand(None)
        self.control.follow(None)

    def _stand(self, claim: Claim | None) -> None:
        """Say in reports which claim is followed, or which generation was the last."""
        self._claim = claim
        standing: dict[str, object] = {
            "head_failed": self._election.has_failed(time.monotonic()),
            "generation": self._election.highest,
        }
        if claim is not None:
            is_head = claim.head == self._member.me
            standing |= {"generation": claim.generation, "head": is_head}
            if is_head or self._hears(claim.head):
                standing["follows"] = claim.head
        if standing != self._member.reporter.standing:
            self._member.reporter.standing = standing
            self._member.changed()

    def _hears(self, node: NodeId) -> bool:
        report = self._member.view.now.nodes.get(node)
        return report is not None and report.state != "lost"

    def _on_head_lost(self, formation: Formation, reason: str) -> None:
        log.warning("can't head generation %d: %s", formation.generation, reason)
        self._election.could_not_form(time.monotonic())
        self._part()

    def _on_status(self, status: RayStatus) -> None:
        log.info(
            "ray session phase=%s role=%s generation=%d reason=%s",
            status.phase,
            status.role,
            status.generation,
            status.reason or "-",
        )

    def _on_reach(self, trouble: str) -> None:
        if trouble != self._reach:
            self._reach = trouble
            log.info("coordinator %s", f"not reached: {trouble}" if trouble else "reached")

    # Orders

    def _take_order(self, order: Order) -> None:
        if isinstance(order, Placed):
            if (answer := self._asks.get(order.ask)) is not None and not answer.done():
                answer.set_result(order.node)
        elif order.node != self._member.me:
            self._own(self._pass_on(order.node, order))
        else:
            self._own(self._carry_out(order))

    async def _pass_on(self, node: NodeId, order: Load | Unload) -> None:
        try:
            await self._member.peers.call(node, "order", OrderAsk(order=encode_order(order)), Done)
        except NodeError as error:
            log.info("order %s not passed on to node %s: %s", type(order).__name__, node, error)

    async def _carry_out(self, order: Load | Unload) -> None:
        fields = {key: value for key, value in asdict(order).items() if value is not None}
        log_event(log, logging.INFO, f"order {type(order).__name__}", **fields)
        try:
            match order:
                case Load(model=digest):
                    options = LoadOptions(num_ctx=order.context_tokens, parallel=order.parallel)
                    model = self._model(digest)
                    await self._member.measured.load(model, options, embedding=order.embedding)
                case Unload():
                    self._member.measured.leave(Digest.parse(order.model), embedding=order.embedding)
        except (NodeError, RegistryError, OSError) as error:
            log.warning("order not carried out: %s", error)
            if isinstance(order, Load):
                failed = LoadFailed(self._member.me, order.model, str(error)[:500], order.embedding)
                self.control.tell(failed)

    def _model(self, digest: WeightsDigest) -> Model:
        for model in self._member.reporter.stored():
            if str(model.weights_digest) == digest:
                return model
        raise CallRefused(404, "that model is not stored here")

    async def _answer_formation(self, caller: Caller, ask: FormationAsk) -> Formation:
        if self._mine is None or self._mine.generation != ask.generation:
            raise CallRefused(404, "this node does not head that generation")
        return self._mine

    async def _answer_order(self, caller: Caller, ask: OrderAsk) -> Done:
        try:
            order = decode_order(ask.order)
        except DECODE_ERRORS as error:
            raise CallRefused(400, str(error)) from None
        if not isinstance(order, Placed):
            self._own(self._carry_out(order))
        return Done()

    # What is kept

    def _read_highest(self) -> int:
        try:
            return int(read_private(self._highest_path)) if self._highest_path.exists() else 0
        except (UnusableFile, ValueError) as error:
            log.warning("highest generation not read: %s", error)
            return 0

    def _write_highest(self) -> None:
        if self._election.highest > self._written:
            write_private(self._highest_path, str(self._election.highest).encode())
            self._written = self._election.highest

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _with_ray(nodes: Any) -> dict[NodeId, NodeReport]:
    """The nodes that can be in a Ray session."""
    return {node: report for node, report in nodes.items() if report.ray_version and report.state != "lost"}
