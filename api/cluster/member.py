"""Everything of the cluster that one daemon owns, from the moment it is a member until it is none any more.

Puts the parts together and keeps them going: who is who (node.identity), who is there (node.peers), what is known
(coordinator.cluster_view), who serves (coordinator.dispatch), the LAN port in front of it (api.lan).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from msgspec import Struct

from api.app import create_lan_app
from api.cluster.catalogue import Catalogue
from api.cluster.finding import Finder
from api.cluster.handover import Handover
from api.cluster.lan_sockets import lan_hosts, with_port
from api.cluster.measured import MeasuredNode
from api.cluster.pins import Pins
from api.cluster.reporter import Reporter
from api.cluster.start_time import start_time
from api.cluster.turns import Turns
from api.lan import LanListener
from api.lan_gate import LanGate, TokenRates
from coordinator.cluster_view import ClusterView
from coordinator.dispatch import Dispatcher
from coordinator.footprints import Footprints
from coordinator.limits import LimitTable
from node.errors import NodeError
from node.identity import IdentityError, NodeNames, Software
from node.peers import (
    AddressBook,
    Beat,
    Call,
    Caller,
    Change,
    Endpoints,
    MemberRecord,
    Membership,
    Peers,
    Registrar,
    Reported,
    SharedModels,
    WentDown,
    WentUp,
)
from node.sleep import Logind, SleepClock, has_system_bus
from registry import CardBox

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from api.cluster.placing import Placing
    from api.daemon import Daemon
    from coordinator.cost import RouteRequest
    from node.devices import MachineSource
    from node.identity import Identity, NodeId
    from node.report import NodeReport
    from node.serves import OwnNode

log = logging.getLogger(__name__)

TICK_S = 0.25
# A report is put together at most this often, however many ask for it.
REPORT_AGE_S = 0.1
# How soon it is noticed that this machine has other addresses.
ADDRESSES_S = 2.0
RENEWAL_RETRY_S = 10.0
# Before the machine sleeps: of the time there is, what saying goodbye may take.
GOODBYE_S = 1.5
# A machine that has run for so long after all was ready for its sleep does not sleep, whatever was announced.
SLEEPLESS_S = 60.0

Reason: TypeAlias = Literal["asked", "sleep", "end"]


class Drain(Struct, frozen=True, kw_only=True):
    """Take no new work, or take it again."""

    drain: bool


class Fine(Struct, frozen=True, kw_only=True):
    """It was done."""


class ClusterNode:
    """This machine as a member. `on_removed` is told once that it is a member no longer."""

    def __init__(
        self,
        daemon: Daemon,
        local: OwnNode,
        identity: Identity,
        folder: Path,
        *,
        devices: MachineSource,
        ray_version: str,
        on_removed: Callable[[str], None],
    ) -> None:
        """Nothing is opened before `start`."""
        settings = daemon.settings
        self.identity, self.settings = identity, settings
        self.me = identity.node_id
        self._on_removed = on_removed
        self._daemon = daemon
        self.limits = LimitTable()
        self.view = ClusterView(self.me)
        self.membership = Membership(self.me)
        footprints = Footprints(settings)
        self.measured = MeasuredNode(self.me, local, self.changed)
        self.reporter = Reporter(
            self.me,
            identity.node_name,
            version=daemon.version,
            ray_version=ray_version,
            store=daemon.store,
            node=self.measured,
            devices=devices,
            footprints=footprints,
            token_use=lambda: self.limits.report(time.monotonic()),
            waiting=lambda: self.turns.waiting(),
            started_at=start_time(folder, time.time()),
            head=settings.head,
        )
        self.software = Software(ayni=daemon.version, ray=ray_version)
        self.peers = Peers(
            self.membership,
            AddressBook(folder),
            ledger=identity.ledger,
            context=identity.peer_context,
            compose=self._compose,
            on_change=self._take,
        )
        self.dispatcher = Dispatcher(
            self.measured,
            self.peers.node,
            self.view,
            footprints,
            limits=self.limits,
            place=self._place,
            telemetry=daemon.telemetry,
        )
        self.turns = Turns(self.dispatcher, self.view, limit=settings.max_queue, telemetry=daemon.telemetry)
        self._box = CardBox(settings.cache_dir / "cards")
        self.catalogue = Catalogue(
            daemon.store, daemon.shelf, self.view, self.peers, self._box, self.reporter.scan_soon
        )
        self.handover = Handover(self.measured, self.dispatcher)
        self.pins = Pins(folder, self.measured, daemon.store, keep_alive_s=settings.keep_alive_s)
        self._registrar = Registrar(identity, self.peers, self.software)
        self.endpoints = Endpoints(
            self.measured,
            SharedModels(daemon.store),
            {
                **self.peers.calls(),
                **self.catalogue.calls(),
                **self.pins.calls(),
                **self._registrar.calls(),
                "drain": Call(Drain, self._answer_drain),
            },
        )
        self.finder = Finder(self, settings, version=daemon.version)
        self.hosts = lan_hosts(settings) or ("127.0.0.1",)
        self.placing = _placing(self, folder) if ray_version else None
        self._listeners: list[LanListener] = []
        self._gate: LanGate | None = None
        # Why this node takes no new work; nothing: it does.
        self._drained_for: set[Reason] = set()
        self._handing_over: asyncio.Task[None] | None = None
        self._context: ssl.SSLContext | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._latest: tuple[float, NodeReport] | None = None
        self._told_resident: frozenset[object] = frozenset()
        self._parted = False
        self._sleep_clock = SleepClock()
        self._sleepless: asyncio.TimerHandle | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """host:port of the LAN port, best first."""
        return tuple(with_port(host, self.settings.lan_port) for host in self.hosts)

    async def start(self, sockets: Sequence[socket.socket], known: Sequence[MemberRecord] = ()) -> None:
        """Open the LAN port on these sockets and begin to call the others."""
        self.reporter.address = self.addresses[0]
        if self.placing is not None:
            self.endpoints.calls |= self.placing.calls()
        gate = self._gate = LanGate(
            create_lan_app(self._daemon),
            self.endpoints,
            ca_pem=self.identity.anchor.ca_pem,
            verifier=self.identity.token_verifier(),
            removal_of=self.identity.ledger.removal_of,
            admit=TokenRates(self.limits, self.view.changed),
            telemetry=self._daemon.telemetry,
        )
        self._context = self.identity.server_context()
        for each in sockets:
            self._listeners.append(LanListener(gate, each, self._context))
        self.peers.start()
        for record in known:
            self.peers.remember(record)
        self._own(self.reporter.keep(self.changed), "look after models and devices")
        self._own(self._tick(), "watch this node")
        self._own(self._keep_reachable(), "keep addresses and certificate true")
        self._own(self.pins.keep(), "keep pinned models loaded")
        if self.settings.suspend == "auto" and has_system_bus():
            logind = Logind(on_sleep=self.fall_asleep, on_wake=self.awake)
            self._own(logind.keep(), "hold up sleep")
        self.finder.start()
        if self.placing is not None:
            self.placing.start()
        log.info(
            "in cluster name=%s id=%s node=%s addresses=%s",
            self.identity.cluster_name,
            self.identity.cluster_id,
            self.me,
            ",".join(self.addresses),
        )

    async def retire(self, limit_s: float) -> None:
        """Before `close`: take nothing new, give away what runs here, and let the clients of the LAN port finish.

        This machine still is a member meanwhile: the others hear it, and it passes their answers on to its clients.
        """
        if self._gate is not None:
            self._gate.retire()
        self._drain("end", on=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                if self._handing_over is not None:
                    await asyncio.wait({self._handing_over})
                self.endpoints.close()
                await asyncio.gather(*(listener.finish() for listener in self._listeners))

    def give_up(self) -> None:
        """The time is up: whatever still runs ends with an error."""
        self.dispatcher.give_up()
        self.endpoints.close()
        self.peers.lose_links("this node is shutting down")

    async def close(self, *, drain_s: float = 1.0) -> None:
        """Let go of everything; requests of clients on the LAN port may end within `drain_s`."""
        self._drain("end", on=True)
        self.endpoints.close()
        await asyncio.gather(*(listener.close(drain_s) for listener in self._listeners))
        if self._handing_over is not None:
            self._tasks.add(self._handing_over)
        if self._sleepless is not None:
            self._sleepless.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.finder.close()
        if self.placing is not None:
            await self.placing.close()
        await self.peers.close()
        self._box.close()

    # Sleep

    async def fall_asleep(self, limit_s: float) -> None:
        """The machine is about to sleep, in so many seconds: give away what runs here and say goodbye."""
        log.info("this machine is about to sleep")
        self._drain("sleep", on=True)
        if self._handing_over is not None:
            await asyncio.wait({self._handing_over}, timeout=max(0.0, limit_s - GOODBYE_S))
        self.endpoints.end_sessions()  # what could not be given away in time goes on from what was delivered
        await self.peers.say_goodbye()
        self._sleepless = asyncio.get_running_loop().call_later(SLEEPLESS_S, self.awake)

    def awake(self) -> None:
        """The machine is back: take work, call the others anew, and tell them how things are now."""
        if self._sleepless is not None:
            self._sleepless.cancel()
            self._sleepless = None
        self._sleep_clock.slept_s()  # now that this is known it is not to be found out once more
        log.info("this machine is awake")
        self._drain("sleep", on=False)
        self.peers.dial_anew()

    # What people and other nodes ask for

    def drain(self, *, on: bool) -> None:
        """Take no new work from now on and give away what runs here; or take work again."""
        self._drain("asked", on=on)

    def _drain(self, reason: Reason, *, on: bool) -> None:
        (self._drained_for.add if on else self._drained_for.discard)(reason)
        self.reporter.draining = bool(self._drained_for)
        self.pins.suspend(on=self.reporter.draining)
        self.changed()
        self.report()  # from now on nothing that is asked here is sent here either
        # One that has just been cancelled has not ended yet.
        running = self._handing_over
        handing_over = running is not None and not (running.done() or running.cancelling())
        if self._drained_for and not handing_over:
            self._handing_over = asyncio.create_task(self._hand_over(), name="hand over")
        elif not self._drained_for and self._handing_over is not None:
            self._handing_over.cancel()

    async def _hand_over(self) -> None:
        try:
            await self.handover.give_away()
        except Exception:  # what runs here still ends by itself
            log.exception("handing over failed")

    async def drain_node(self, node: NodeId, *, on: bool) -> None:
        """Have a node take no new work. Raises PeerError."""
        if node == self.me:
            self.drain(on=on)
        else:
            await self.peers.call(node, "drain", Drain(drain=on), Fine)

    def remove(self, node: NodeId) -> None:
        """Make another node a stranger; it learns it from whoever it calls next. Raises NotKeeper."""
        self._registrar.remove(node)
        self.view.forget(node)
        self.endpoints.end_sessions(node)

    async def say_farewell(self) -> bool:
        """Have the others revoke this node's certificate, as it leaves for good. False: none of them could be told."""
        self._parted = True
        try:
            await self._registrar.leave()
        except (IdentityError, NodeError) as error:
            log.warning("no other member was told that this machine leaves: %s", error)
            return False
        return True

    def ledger_changed(self) -> None:
        """Signed records were added here: everybody is to know."""
        self.peers.ledger_changed()

    async def _place(self, request: RouteRequest) -> NodeId | None:
        return await self.placing.place(request) if self.placing is not None else None

    # Answers to other nodes

    async def _answer_drain(self, caller: Caller, drain: Drain) -> Fine:
        log.info("drain=%s asked by node=%s", drain.drain, caller.node)
        self.drain(on=drain.drain)
        return Fine()

    # Reports

    def _compose(self) -> Beat:
        report = self.report()
        return Beat(report=self.reporter.to_tell(report, time.monotonic()), addresses=self.addresses)

    def report(self) -> NodeReport:
        """This node now, in its own view too."""
        now_s = time.monotonic()
        if self._latest is None or now_s - self._latest[0] > REPORT_AGE_S:
            report = self.reporter.report()
            self._latest = now_s, report
            self.view.take_own(report, now_s)
            self._told_resident = _fingerprint(report)
        return self._latest[1]

    def changed(self) -> None:
        """Something that the others should know at once."""
        self._latest = None
        self.peers.beat_now()

    def _take(self, change: Change) -> None:
        now_s = time.monotonic()
        self.view.take(change, now_s)
        if self.placing is not None:
            self.placing.take(change)
        match change:
            case WentUp(report) | Reported(report):
                self.limits.heard(report.node, report.token_use, now_s)
                if isinstance(change, WentUp):
                    self.reporter.tell_held()
                    self.changed()
            case WentDown(node):
                self.limits.forget_node(node)
                # Whoever asked for it there goes on elsewhere, if it is alive at all.
                self.endpoints.end_sessions(node)

    async def _tick(self) -> None:
        while True:
            try:
                if slept_s := self._sleep_clock.slept_s():
                    log.info("this machine slept seconds=%.0f", slept_s)
                    self.awake()
                before = self._told_resident
                self._latest = None
                if _fingerprint(self.report()) != before:
                    self.peers.beat_now()
                # A member need not be in the view to have a link: it may never have told us anything.
                for node in self.endpoints.linked.union(self.view.now.nodes):
                    if node != self.me and self.identity.ledger.is_node_revoked(node):
                        self.view.forget(node)
                        self.endpoints.end_sessions(node)
                for listener in self._listeners:
                    listener.drop_revoked(self.identity.ledger.is_revoked)
                if self.identity.removed:
                    self._part("this machine was removed from the cluster")
            except Exception:  # the next look may do better
                log.exception("watching this node failed")
            await asyncio.sleep(TICK_S)

    def _part(self, reason: str) -> None:
        if not self._parted:
            self._parted = True
            self._on_removed(reason)

    # Certificate

    def names(self) -> NodeNames:
        """Under which names this machine is reached now."""
        import socket

        return NodeNames.of(self.hosts, (socket.gethostname(),))

    async def _keep_reachable(self) -> None:
        """Keep addresses and certificate true, for ever."""
        while True:
            pause_s = ADDRESSES_S
            try:
                moved = self._look_at_addresses()
                renewed = await self._renew()
                if self.placing is not None and (moved or renewed):
                    self.placing.renew()
            except (IdentityError, NodeError, OSError) as error:
                log.warning("certificate not renewed: %s", error)
                pause_s = RENEWAL_RETRY_S
            except Exception:  # there are weeks left to try again
                log.exception("certificate not renewed")
                pause_s = RENEWAL_RETRY_S
            await asyncio.sleep(pause_s)

    def _look_at_addresses(self) -> bool:
        """Whether this machine has other addresses than before. Without a network the last ones stand."""
        hosts = lan_hosts(self.settings) or self.hosts
        if hosts == self.hosts:
            return False
        log.info("addresses=%s before=%s", ",".join(hosts), ",".join(self.hosts))
        gone = not set(self.hosts) <= set(hosts)
        self.hosts = hosts
        self.reporter.address = self.addresses[0]
        if gone:  # what was connected from there will hear nothing any more, and not be told so
            self.peers.lose_links("an address of this machine is gone")
        self.changed()
        return True

    async def _renew(self) -> bool:
        """Get a new certificate if it is time to. Raises IdentityError, NodeError, OSError."""
        reason = self.identity.renewal_due(self.names(), now_s=time.time())
        if reason is None or self.identity.removed:
            return False
        log.info("certificate is due reason=%s", reason)
        await self._registrar.renew(self.names())
        assert self._context is not None
        self._context.load_cert_chain(self.identity.certificate_path, self.identity.key_path)
        return True

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.add(asyncio.create_task(work, name=name))


def _fingerprint(report: NodeReport) -> frozenset[object]:
    """What of a report the others should know without delay."""
    return frozenset((r.digest, r.context_tokens, r.embedding, r.pinned, r.prefixes) for r in report.resident)


def _placing(member: ClusterNode, folder: Path) -> Placing | None:
    """Placement by Ray, where its parts can be imported; without it, requests place what they need themselves."""
    try:
        from api.cluster.placing import Placing
    except ImportError as error:
        log.warning("no Ray here: %s", error)
        return None
    return Placing(member, folder)
