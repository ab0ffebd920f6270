"""How a member finds the others: mDNS and the operator's static peers, whose addresses are greeted by `Peers`.

Whatever is found is only dialled, announced addresses a few at a time; who answers is known by its certificate, and
only that is remembered. mDNS that does not work here is logged once and tried again, as interfaces come and go.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from typing import TYPE_CHECKING, Literal

from cryptography.hazmat.primitives import serialization

from node.discovery import (
    Advert,
    Discovery,
    InvalidPeer,
    Knocks,
    Myself,
    NoMulticast,
    PeerAddress,
    Sighting,
    choose_dials,
    interfaces_in_use,
)
from node.errors import NodeError

if TYPE_CHECKING:
    from api.cluster.member import ClusterNode
    from node.settings import Settings

log = logging.getLogger(__name__)

LOOK_S = 5.0
RETRY_S = 5.0
GREET_S = 2.0
SLOWEST_GREET_S = 60.0
# Announced addresses that are tried at the same time, and how many may be begun in this time at most.
MAX_KNOCKING = 16
KNOCK_PAUSE_S = 1.0


class Finder:
    """Finds members for one node. `state` and `reason` are for people."""

    def __init__(self, member: ClusterNode, settings: Settings, *, version: str) -> None:
        self.state: Literal["off", "on", "failed"] = "off"
        self.reason = ""
        self._member, self._settings, self._version = member, settings, version
        self._discovery: Discovery | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._static: list[PeerAddress] = []
        self._seen = asyncio.Event()  # adverts changed, or an attempt ended
        self._spoken_name: str | None = None  # of the cluster, while this machine answers for it

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """What mDNS shows."""
        return self._discovery.sightings if self._discovery else ()

    def start(self) -> None:
        """Begin to look."""
        for text in self._settings.static_peers:
            try:
                self._static.append(PeerAddress.parse(text))
            except InvalidPeer as error:
                log.error("setting static_peers: %s", error)
        for peer in self._static:
            self._tasks.append(asyncio.create_task(self._greet(str(peer)), name=f"greet {peer}"))
        if self._settings.discovery == "auto":
            self._tasks.append(asyncio.create_task(self._discover(), name="discover"))
            self._tasks.append(asyncio.create_task(self._knock(), name="try announced addresses"))

    async def close(self) -> None:
        """Say goodbye."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._discovery is not None:
            await self._discovery.close()

    def myself(self) -> Myself:
        """How this machine judges what it sees."""
        members = {member.node: member.name for member in self._member.membership}
        identity = self._member.identity
        return Myself(
            version=self._version,
            node=identity.node_id,
            cluster=identity.cluster_id,
            members=members,
            removed=frozenset(identity.ledger.removed_nodes),
        )

    async def _greet(self, address: str) -> None:
        """Find out who is at a static address; once it is known, beats keep it."""
        pause_s = GREET_S
        while True:
            try:
                record = await self._member.peers.greet(address)
                log.info("static peer address=%s node=%s name=%s", address, record.node, record.name)
                return
            except NodeError as error:
                log.info("static peer %s: %s", address, error)
            except Exception:  # the next attempt may do better
                log.exception("static peer %s", address)
            await asyncio.sleep(pause_s)
            pause_s = min(SLOWEST_GREET_S, pause_s * 1.5)

    async def _discover(self) -> None:
        while True:
            discovery = Discovery(lambda: interfaces_in_use(self._settings.interfaces), self._seen.set)
            try:
                await discovery.start()
                self._discovery, self.state, self.reason = discovery, "on", ""
                await self._follow(discovery)
            except NoMulticast as error:
                if self.state != "failed":
                    log.warning("no mDNS: %s", error)
                self.state, self.reason = "failed", str(error)
            except Exception:  # interfaces change in ways nobody foresees
                log.exception("discovery failed")
                self.state, self.reason = "failed", "see the log"
            finally:
                self._discovery, self._spoken_name = None, None
                await discovery.close()
            await asyncio.sleep(RETRY_S)

    async def _follow(self, discovery: Discovery) -> None:
        """Announce, and keep what is announced true."""
        announced: Advert | None = None
        while True:
            advert = self._advert()
            if advert != announced:
                await discovery.announce(advert)
                announced = advert
            await self._speak(discovery)
            self._seen.set()
            await asyncio.sleep(LOOK_S)
            await discovery.follow_interfaces()

    async def _speak(self, discovery: Discovery) -> None:
        """One member answers for `<cluster>.local`: the head, or the one with the lowest id."""
        view = self._member.view.now
        up = [report for report in view.nodes.values() if report.state != "lost"]
        heads = [report.node for report in up if report.head] or sorted(report.node for report in up)
        speaks = bool(heads) and heads[0] == self._member.me
        name = self._member.identity.cluster_name if speaks else None
        if name == self._spoken_name:
            return
        try:
            if self._spoken_name is not None:  # it is another's turn, or the cluster has another name now
                await discovery.stop_speaking()
                self._spoken_name = None
            if name is not None:
                await discovery.speak_for_cluster(name, self._settings.lan_port)
                self._spoken_name = name
        except NoMulticast as error:
            log.debug("not answering for the cluster's name: %s", error)

    def _advert(self) -> Advert:
        identity = self._member.identity
        der = identity.certificate.public_bytes(serialization.Encoding.DER)
        report = self._member.report()
        return Advert(
            node=identity.node_id,
            node_name=identity.node_name,
            cluster=identity.cluster_id,
            cluster_name=identity.cluster_name,
            port=self._settings.lan_port,
            fingerprint=hashlib.sha256(der).hexdigest(),
            version=self._version,
            generation=report.generation,
            head=report.head,
        )

    async def _knock(self) -> None:
        """Try what is announced, for ever."""
        knocks = Knocks(random.Random())  # noqa: S311 - no secret
        knocking: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                self._seen.clear()
                due = knocks.due(self._announced(), time.monotonic(), most=MAX_KNOCKING - len(knocking))
                for address in due:
                    task = group.create_task(self._try(str(address)), name=f"try {address}")
                    knocking.add(task)
                    task.add_done_callback(knocking.discard)
                await asyncio.sleep(KNOCK_PAUSE_S)
                await self._seen.wait()

    async def _try(self, address: str) -> None:
        try:
            record = await self._member.peers.greet(address)
            log.info("found node=%s name=%s address=%s", record.node, record.name, address)
        except NodeError as error:
            log.debug("announced address %s: %s", address, error)
        except Exception:  # a later attempt may do better
            log.exception("announced address %s", address)
        finally:
            self._seen.set()

    def _announced(self) -> list[PeerAddress]:
        """Addresses at which somebody may be whom we do not reach yet, by what is announced."""
        identity = self._member.identity
        sightings = random.sample(self.sightings, len(self.sightings))  # so that no flood comes before the others
        dials = choose_dials(me=identity.node_id, cluster=identity.cluster_id, sightings=sightings)
        found = []
        for dial in dials:
            member = self._member.membership.get(dial.node) if dial.node is not None else None
            if member is None or (member.state != "up" and str(dial.address) not in member.addresses):
                found.append(dial.address)
        return found
