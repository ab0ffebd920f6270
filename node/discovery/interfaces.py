"""Which network interfaces discovery uses on a machine that has several.

A laptop easily has ten: Wi-Fi, a dock, Docker's bridges, a VPN or two. Announcing a container bridge's address to
the LAN makes peers dial nowhere; announcing on a company VPN tells strangers. `choose_interfaces` is pure,
`list_interfaces` asks the system.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

SYSFS_NET = Path("/sys/class/net")
# What container engines, hypervisors and VPNs call theirs; used only when an operator names them.
IGNORED_NAMES = (
    *("docker*", "br-*", "veth*", "cni*", "flannel*", "cali*", "podman*", "lxc*", "lxd*", "incus*", "kube*"),
    *("virbr*", "vmnet*", "vboxnet*", "vnic*", "tun*", "tap*", "utun*", "wg*", "tailscale*", "zt*", "ppp*", "ipsec*"),
    *("awdl*", "llw*", "anpi*", "ap[0-9]*", "gif*", "stf*", "dummy*", "ifb*", "nebula*", "vEthernet*"),
)
_MAX_STACKED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A network interface and its addresses, IPv6 link-local ones without their zone.

    Attributes:
        is_physical: backed by hardware, itself or through a bridge, bond or VLAN on top of hardware.
    """

    name: str
    addresses: tuple[str, ...]
    is_up: bool = True
    is_loopback: bool = False
    is_point_to_point: bool = False
    is_physical: bool = False


def choose_interfaces(interfaces: Iterable[Interface], named: Sequence[str] = ()) -> tuple[Interface, ...]:
    """Say which interfaces to announce on and to listen on, in the order given; those without an address never.

    Args:
        named: what the operator chose: names, patterns ("en*") or single addresses.
    1. Something is named: exactly that, be it loopback or a VPN; of an interface named by address, that address.
    2. Physical interfaces that are up.
    3. None is physical (a container, a virtual machine): all that are up, save loopback, point-to-point links and
       the names that containers and VPNs use.
    """
    usable = [interface for interface in interfaces if interface.is_up and interface.addresses]
    if named:
        return tuple(kept for interface in usable if (kept := _as_named(interface, named)))
    public = [
        interface
        for interface in usable
        if not interface.is_loopback
        and not interface.is_point_to_point
        and not any(fnmatchcase(interface.name, pattern) for pattern in IGNORED_NAMES)
    ]
    return tuple([interface for interface in public if interface.is_physical] or public)


def announced_addresses(interfaces: Iterable[Interface]) -> tuple[str, ...]:
    """The addresses by which others reach us: IPv4 first, then routable IPv6.

    Link-local addresses mean something on one link only; they are announced when there is nothing better.
    """
    parsed = [ipaddress.ip_address(address) for interface in interfaces for address in interface.addresses]
    routable = [address for address in parsed if not address.is_link_local] or parsed
    return tuple(dict.fromkeys(str(address) for address in sorted(routable, key=lambda address: address.version)))


def interfaces_in_use(named: Sequence[str] = ()) -> tuple[Interface, ...]:
    """What `choose_interfaces` says of this machine now."""
    return choose_interfaces(list_interfaces(), named)


def list_interfaces() -> tuple[Interface, ...]:
    """The interfaces of this machine, by name."""
    import socket

    import psutil

    states = psutil.net_if_stats()
    found = []
    for name, entries in sorted(psutil.net_if_addrs().items()):
        addresses = [
            entry.address.partition("%")[0] for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)
        ]
        state = states.get(name)
        flags = set(state.flags.split(",")) if state is not None else set()
        found.append(
            Interface(
                name=name,
                addresses=tuple(dict.fromkeys(addresses)),
                is_up=state is not None and state.isup,
                is_loopback="loopback" in flags or name == "lo",
                is_point_to_point="pointopoint" in flags or "pointtopoint" in flags,
                is_physical=name.startswith("en") if sys.platform == "darwin" else is_physical(name),
            )
        )
    return tuple(found)


def is_physical(name: str, folder: Path = SYSFS_NET, depth: int = 0) -> bool:
    """Whether hardware stands behind an interface of Linux, directly or at the bottom of a stack."""
    entry = folder / name
    if (entry / "device").exists():
        return True
    if depth >= _MAX_STACKED or not entry.is_dir():
        return False
    below = [link.name.removeprefix("lower_") for link in entry.glob("lower_*")]
    return any(is_physical(lower, folder, depth + 1) for lower in below)


def _as_named(interface: Interface, named: Sequence[str]) -> Interface | None:
    if any(fnmatchcase(interface.name, pattern) for pattern in named):
        return interface
    chosen = tuple(address for address in interface.addresses if address in named)
    # Linux answers for all of 127.0.0.0/8 although only 127.0.0.1 is listed.
    if interface.is_loopback:
        chosen = tuple(dict.fromkeys((*chosen, *(text for text in named if _is_loopback(text)))))
    if not chosen:
        return None
    return Interface(
        name=interface.name,
        addresses=chosen,
        is_loopback=interface.is_loopback,
        is_point_to_point=interface.is_point_to_point,
        is_physical=interface.is_physical,
    )


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
