"""The mDNS side of discovery: announce this machine, watch the others, answer for `<cluster>.local`.

zeroconf does the protocol; this module decides what is announced where, and keeps a bounded table of what was
seen. A vanished machine may stay in that table for many minutes (mDNS has no heartbeat): it says whom to dial, not
who is alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from node.discovery.errors import NoMulticast, UnreadableRecord
from node.discovery.interfaces import Interface, announced_addresses
from node.discovery.record import SERVICE_TYPE, Advert, decode, dns_label, encode
from node.discovery.sighting import Sighting

if TYPE_CHECKING:
    from zeroconf import IPVersion, ServiceInfo, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

log = logging.getLogger(__name__)

CLUSTER_NAME_TYPE = "_ayni-api._tcp.local."
# Strangers choose instance names: the table stays under ~1 MiB whatever they send.
MAX_SIGHTINGS = 1024
MAX_ADDRESSES = 8
# Records of a stranger that are asked for at the same time; zeroconf itself caches 10,000.
MAX_LOOKUPS = 64
LOOKUP_S = 3.0
# The cluster's host name moves to another machine when its speaker goes: clients should notice soon.
SPEAKER_TTL_S = 10
CLOSE_S = 3.0
START_S = 5.0


class Discovery:
    """One machine's presence on mDNS, from `start` to `close`.

    Args:
        choose: which interfaces to use now; asked at the start and by `follow_interfaces`.
        on_change: called in the event loop when the table of sightings has changed.
    """

    def __init__(
        self, choose: Callable[[], tuple[Interface, ...]], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._choose, self._on_change = choose, on_change
        self._interfaces: tuple[Interface, ...] = ()
        self._mdns: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._sightings: dict[str, Sighting] = {}
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._announced: tuple[Advert, ServiceInfo] | None = None
        self._spoken: tuple[str, ServiceInfo] | None = None

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """What has been seen and not said goodbye, ourselves included."""
        return tuple(self._sightings.values())

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that are announced for this machine."""
        return announced_addresses(self._interfaces)

    async def start(self) -> None:
        """Open the sockets and begin to listen; nothing is announced yet. Raises NoMulticast."""
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        self._interfaces = self._choose()
        if not (bound := self.addresses):
            raise NoMulticast("no network interface that may be used is up (see the setting interfaces)")
        try:
            self._mdns = AsyncZeroconf(interfaces=list(bound), ip_version=_ip_version(bound))
            await self._mdns.zeroconf.async_wait_for_start(START_S)
        except (OSError, RuntimeError, TimeoutError) as error:
            await self.close()
            raise NoMulticast(str(error) or type(error).__name__) from None
        self._browser = AsyncServiceBrowser(self._mdns.zeroconf, SERVICE_TYPE, handlers=[self._on_service])
        log.info("discovery started interfaces=%s addresses=%s", self._names(), ",".join(bound))

    async def announce(self, advert: Advert) -> None:
        """Announce this machine, or what has changed about it. Peers know in about a millisecond of a change."""
        from zeroconf import ServiceInfo

        mdns = self._opened()
        info = ServiceInfo(
            SERVICE_TYPE,
            advert.instance,
            port=advert.port,
            properties=dict(encode(advert)),
            server=advert.host,
            parsed_addresses=list(self.addresses),
        )
        if self._announced is not None and self._announced[0].instance == advert.instance:
            await mdns.async_update_service(info)
        else:
            await self._withdraw_advert()
            # Instances carry the node's id, so there is nothing to probe for; peers see us a second earlier.
            await mdns.async_register_service(info, cooperating_responders=True)
        self._announced = (advert, info)

    async def speak_for_cluster(self, cluster_name: str, port: int) -> str:
        """Answer for `<cluster>.local`; one machine of a cluster does, usually its head.

        Returns: the host name. Raises NoMulticast: another machine, no member of the cluster, has that name.
        """
        label = dns_label(cluster_name)
        host = f"{label}.local"
        strangers = await self.resolve(f"{host}.") - self._known_addresses()
        if strangers:
            raise NoMulticast(f"{host} is already the name of {', '.join(sorted(strangers))}")
        await self._speak(label, port)
        return host

    async def _speak(self, label: str, port: int) -> None:
        from zeroconf import ServiceInfo

        info = ServiceInfo(
            CLUSTER_NAME_TYPE,
            f"{label}.{CLUSTER_NAME_TYPE}",
            port=port,
            server=f"{label}.local.",
            parsed_addresses=list(self.addresses),
            host_ttl=SPEAKER_TTL_S,
            other_ttl=SPEAKER_TTL_S,
        )
        await self.stop_speaking()
        await self._opened().async_register_service(info, cooperating_responders=True)
        self._spoken = (label, info)

    async def stop_speaking(self) -> None:
        """Leave `<cluster>.local` to another machine."""
        if self._spoken is not None and self._mdns is not None:
            (_, info), self._spoken = self._spoken, None
            await self._mdns.async_unregister_service(info)

    async def resolve(self, host: str, limit_s: float = 0.7) -> set[str]:
        """The addresses that mDNS gives for a `.local.` name; empty: nobody answers for it."""
        from zeroconf import AddressResolver  # type: ignore[attr-defined]  # public, but not in __all__

        resolver = AddressResolver(host)
        await resolver.async_request(self._opened().zeroconf, limit_s * 1000)
        return set(resolver.parsed_addresses())

    async def follow_interfaces(self) -> bool:
        """Look whether interfaces or addresses have changed and move to the new ones. Returns: whether they had.

        Raises: NoMulticast: none is left; what is announced stays, for when one comes back.
        """
        now = self._choose()
        if now == self._interfaces:
            return False
        addresses = announced_addresses(now)
        if not addresses:
            raise NoMulticast("no network interface that may be used is up (see the setting interfaces)")
        mdns = self._opened()
        await mdns.zeroconf.async_update_interfaces(list(addresses), _ip_version(addresses))
        self._interfaces = now
        log.info("discovery moved interfaces=%s addresses=%s", self._names(), ",".join(addresses))
        if self._announced is not None:
            await self.announce(self._announced[0])
        if self._spoken is not None:
            label, info = self._spoken
            await self._speak(label, info.port or 0)
        return True

    async def close(self) -> None:
        """Say goodbye and close the sockets. Never raises, never takes longer than `CLOSE_S`."""
        mdns, self._mdns = self._mdns, None
        for lookup in self._lookups.values():
            lookup.cancel()
        await asyncio.gather(*self._lookups.values(), return_exceptions=True)
        if mdns is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                if self._browser is not None:
                    await self._browser.async_cancel()
                await mdns.async_unregister_all_services()
                await mdns.async_close()
        except (OSError, TimeoutError) as error:
            log.warning("discovery did not close cleanly: %s", error or type(error).__name__)

    def _opened(self) -> AsyncZeroconf:
        if self._mdns is None:
            raise NoMulticast("discovery is not running")
        return self._mdns

    def _names(self) -> str:
        return ",".join(interface.name for interface in self._interfaces)

    def _known_addresses(self) -> set[str]:
        """Where we and other members of our cluster are: whoever of them had the cluster's name may lose it to us."""
        mine = self._announced[0].cluster if self._announced is not None else None
        members = [seen for seen in self._sightings.values() if seen.advert is not None and seen.advert.cluster == mine]
        return {address for seen in members for address in seen.addresses} | set(self.addresses)

    async def _withdraw_advert(self) -> None:
        if self._announced is not None and self._mdns is not None:
            (_, info), self._announced = self._announced, None
            await self._mdns.async_unregister_service(info)

    def _on_service(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """A service came, changed or said goodbye (zeroconf calls this in the event loop)."""
        from zeroconf import ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            if lookup := self._lookups.pop(name, None):
                lookup.cancel()
            if self._sightings.pop(name, None) is not None:
                self._on_change()
            return
        running = self._lookups.get(name)
        if (running is None or running.done()) and len(self._lookups) < MAX_LOOKUPS:
            self._lookups[name] = asyncio.create_task(self._look_up(zeroconf, name), name=f"look up {name}")

    async def _look_up(self, zeroconf: Zeroconf, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if not await info.async_request(zeroconf, LOOKUP_S * 1000):
                return
            seen = read_sighting(name, info)
            if self._sightings.get(name) != seen:
                if name not in self._sightings and len(self._sightings) >= MAX_SIGHTINGS:
                    # The oldest has had its chance to be looked at; a flood must not hide who comes after it.
                    del self._sightings[next(iter(self._sightings))]
                self._sightings[name] = seen
                self._on_change()
        finally:
            if self._lookups.get(name) is asyncio.current_task():
                del self._lookups[name]


def _ip_version(addresses: Sequence[str]) -> IPVersion:
    from zeroconf import IPVersion

    versions = {":" in address for address in addresses}
    return IPVersion.All if len(versions) == 2 else IPVersion.V6Only if True in versions else IPVersion.V4Only


def read_sighting(name: str, info: ServiceInfo) -> Sighting:
    """What a resolved service says."""
    instance = name.removesuffix(f".{SERVICE_TYPE}")
    addresses = tuple(sorted(set(info.parsed_scoped_addresses()), key=lambda text: (":" in text, text)))[:MAX_ADDRESSES]
    try:
        return Sighting(instance=instance, addresses=addresses, advert=decode(instance, info.port, info.properties))
    except UnreadableRecord as error:
        return Sighting(instance=instance, addresses=addresses, problem=error.reason)


@asynccontextmanager
async def open_discovery(
    choose: Callable[[], tuple[Interface, ...]], on_change: Callable[[], None] = lambda: None
) -> AsyncIterator[Discovery]:
    """A running `Discovery`, closed at the end. Raises NoMulticast."""
    discovery = Discovery(choose, on_change)
    await discovery.start()
    try:
        yield discovery
    finally:
        await discovery.close()


async def look_around(choose: Callable[[], tuple[Interface, ...]], listen_s: float = 3.0) -> tuple[Sighting, ...]:
    """Listen for a while without announcing anything: what a machine without a cluster may do. Raises NoMulticast."""
    async with open_discovery(choose) as discovery:
        with suppress(TimeoutError):
            async with asyncio.timeout(listen_s):
                await asyncio.Event().wait()
        return discovery.sightings
