"""Whom to dial: static peers, remembered members and what mDNS has seen, as one bounded list without repeats.

Pure. Multicast is blocked in many offices, in Docker and in WSL, so it is only one of three sources and the least
trusted one: whoever floods the network with adverts must not keep us from the peers that an operator named.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from node.discovery.errors import InvalidPeer
from node.discovery.sighting import Sighting
from node.identity import ClusterId, NodeId

LAN_PORT = 11435
# Ten times the largest home or office cluster we plan for.
MAX_DIALS = 1024
MAX_DIALS_PER_NODE = 8

_PEER = re.compile(
    r"(?:\[(?P<v6>[^]]+)]|(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?))(?::(?P<port>\d{1,5}))?"
)

Source: TypeAlias = Literal["static", "remembered", "mdns"]


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a LAN listener may be: a host name or an address, and a port."""

    host: str
    port: int = LAN_PORT

    @classmethod
    def parse(cls, text: str) -> PeerAddress:
        """`host`, `host:port`, `[v6]:port` or a bare IPv6 address. Raises InvalidPeer."""
        if _is_ipv6(text):
            return cls(text)
        if not (match := _PEER.fullmatch(text)):
            raise InvalidPeer(text)
        host, port = match["v6"] or match["host"], int(match["port"] or LAN_PORT)
        if (match["v6"] and not _is_ipv6(host)) or not 0 < port < 1 << 16:
            raise InvalidPeer(text)
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Dial:
    """An address worth trying and who is expected there; None: whoever answers and proves to be a member."""

    address: PeerAddress
    node: NodeId | None
    source: Source


@dataclass(frozen=True, slots=True)
class Remembered:
    """A member met before, and where."""

    node: NodeId
    addresses: tuple[PeerAddress, ...]


def choose_dials(
    *,
    me: NodeId,
    cluster: ClusterId,
    static: Iterable[PeerAddress] = (),
    remembered: Iterable[Remembered] = (),
    sightings: Iterable[Sighting] = (),
) -> list[Dial]:
    """Say whom to dial, most trustworthy source first; never this machine, never another cluster.

    An address named by two sources is dialled once, for the node that is expected there if one is known. Of each
    node at most `MAX_DIALS_PER_NODE` addresses are taken, of all together `MAX_DIALS`.
    """
    dials: dict[PeerAddress, Dial] = {}
    taken: dict[NodeId, int] = {}

    def offer(address: PeerAddress, node: NodeId | None, source: Source) -> None:
        if node == me or len(dials) >= MAX_DIALS:
            return
        known = dials.get(address)
        if known is not None and (known.node is not None or node is None):
            return
        if node is not None:
            if taken.get(node, 0) >= MAX_DIALS_PER_NODE:
                return
            taken[node] = taken.get(node, 0) + 1
        dials[address] = Dial(address, node, known.source if known is not None else source)

    for address in static:
        offer(address, None, "static")
    for member in remembered:
        for address in member.addresses:
            offer(address, member.node, "remembered")
    for sighting in sightings:
        if (advert := sighting.advert) is not None and advert.cluster == cluster:
            for host in sighting.addresses:
                offer(PeerAddress(host, advert.port), advert.node, "mdns")
    return list(dials.values())


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
