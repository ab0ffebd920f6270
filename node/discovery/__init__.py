"""Find the other machines: announce this one by mDNS, see the others, know whom to dial. Says nothing about trust."""

from __future__ import annotations

from node.discovery.dialing import LAN_PORT, Dial, PeerAddress, Remembered, choose_dials
from node.discovery.errors import DiscoveryError, InvalidPeer, NoMulticast, UnreadableRecord
from node.discovery.interfaces import Interface, announced_addresses, choose_interfaces, interfaces_in_use
from node.discovery.knocks import Knocks
from node.discovery.record import Advert
from node.discovery.service import Discovery, look_around, open_discovery
from node.discovery.sighting import Finding, Myself, Sighting, judge, judge_all

__all__ = [
    "LAN_PORT",
    "Advert",
    "Dial",
    "Discovery",
    "DiscoveryError",
    "Finding",
    "Interface",
    "InvalidPeer",
    "Knocks",
    "Myself",
    "NoMulticast",
    "PeerAddress",
    "Remembered",
    "Sighting",
    "UnreadableRecord",
    "announced_addresses",
    "choose_dials",
    "choose_interfaces",
    "interfaces_in_use",
    "judge",
    "judge_all",
    "look_around",
    "open_discovery",
]
