from __future__ import annotations

from pathlib import Path

import pytest

from node.discovery import Interface, announced_addresses, choose_interfaces
from node.discovery.interfaces import interfaces_in_use, is_physical

WIFI = Interface(name="wlp3s0", addresses=("192.0.2.7", "2001:db8::7", "fe80::7"), is_physical=True)
DOCK = Interface(name="enp9s0", addresses=("198.51.100.7",), is_physical=True)
LAN_BRIDGE = Interface(name="br0", addresses=("192.0.2.9",), is_physical=True)
IDLE = Interface(name="enp1s0", addresses=("192.0.2.8",), is_up=False, is_physical=True)
LOOPBACK = Interface(name="lo", addresses=("127.0.0.1", "::1"), is_loopback=True)
DOCKER = Interface(name="docker0", addresses=("172.17.0.1",))
BRIDGE = Interface(name="br-12ab34", addresses=("172.18.0.1",))
VETH = Interface(name="veth77", addresses=("fe80::1",))
VPN = Interface(name="wg0", addresses=("10.8.0.2",), is_point_to_point=True)
TAILNET = Interface(name="tailscale0", addresses=("100.64.0.2",))
CONTAINER = Interface(name="eth0", addresses=("172.17.0.2",))
LAPTOP = (LOOPBACK, WIFI, DOCK, IDLE, DOCKER, BRIDGE, VETH, VPN, TAILNET)


def test_a_laptop_uses_its_physical_interfaces_that_are_up() -> None:
    assert choose_interfaces(LAPTOP) == (WIFI, DOCK)


def test_virtual_interfaces_of_any_name_are_left_out_beside_physical_ones() -> None:
    company = Interface(name="corp0", addresses=("10.1.2.3",))
    assert choose_interfaces((company, WIFI)) == (WIFI,)


def test_a_bridge_over_hardware_counts_as_physical() -> None:
    assert choose_interfaces((LOOPBACK, LAN_BRIDGE, DOCKER)) == (LAN_BRIDGE,)


def test_a_container_uses_what_it_has() -> None:
    assert choose_interfaces((LOOPBACK, CONTAINER)) == (CONTAINER,)


def test_without_any_network_nothing_is_used() -> None:
    assert choose_interfaces((LOOPBACK, IDLE, VPN)) == ()


@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        (("wg0",), ("wg0",)),
        (("en*",), ("enp9s0",)),
        (("docker0", "tailscale0"), ("docker0", "tailscale0")),
        (("nothing",), ()),
    ],
)
def test_what_the_operator_names_is_used_and_nothing_else(named: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    assert tuple(interface.name for interface in choose_interfaces(LAPTOP, named)) == chosen


def test_an_interface_named_by_address_is_used_with_that_address_only() -> None:
    (chosen,) = choose_interfaces(LAPTOP, ("192.0.2.7",))
    assert (chosen.name, chosen.addresses) == ("wlp3s0", ("192.0.2.7",))


def test_any_loopback_address_can_be_named() -> None:
    (chosen,) = choose_interfaces(LAPTOP, ("127.0.0.11",))
    assert (chosen.name, chosen.addresses) == ("lo", ("127.0.0.11",))


def test_addresses_are_announced_ipv4_first_and_without_link_local_ones() -> None:
    assert announced_addresses((WIFI, DOCK)) == ("192.0.2.7", "198.51.100.7", "2001:db8::7")


def test_link_local_addresses_are_announced_when_there_is_nothing_else() -> None:
    assert announced_addresses((VETH,)) == ("fe80::1",)


def test_hardware_is_found_below_bridges_and_vlans(tmp_path: Path) -> None:
    (tmp_path / "eth0" / "device").mkdir(parents=True)
    (tmp_path / "vlan5" / "lower_eth0").mkdir(parents=True)
    (tmp_path / "br0" / "lower_vlan5").mkdir(parents=True)
    (tmp_path / "docker0" / "lower_veth1").mkdir(parents=True)
    (tmp_path / "veth1").mkdir()
    (tmp_path / "ring" / "lower_ring").mkdir(parents=True)
    found = {name: is_physical(name, tmp_path) for name in ("eth0", "vlan5", "br0", "docker0", "veth1", "ring", "no")}
    assert found == {
        "eth0": True, "vlan5": True, "br0": True, "docker0": False, "veth1": False, "ring": False, "no": False,
    }  # fmt: skip


def test_this_machine_has_a_loopback_that_can_be_named() -> None:
    (loopback,) = interfaces_in_use(("127.0.0.11",))
    assert loopback.is_loopback
    assert loopback.addresses == ("127.0.0.11",)
