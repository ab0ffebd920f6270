"""Where the three machines stand: on a LAN of their own whose cables can be pulled, or on addresses of loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, TypeAlias

from tests.chaos.clock import WallClock, can_be_set
from tests.chaos.disk import SmallDisk, can_be_mounted
from tests.chaos.machines import Machine
from tests.cluster.real_nodes import ADDRESSES, RealNode, free_port
from tests.support.netns import lan, why_no_lan

Network: TypeAlias = Literal["lan", "loopback"]

NAMES = ("a", "b", "c")
PORT, LAN_PORT = 11434, 11435


def best_network() -> Network:
    """What this user may have here."""
    return "loopback" if why_no_lan() else "lan"


def machines_on(network: Network, folder: Path) -> AbstractContextManager[list[Machine]]:
    """Three machines whose daemons are not started yet; their disks and cables are gone at the end."""
    return _on_a_lan(folder) if network == "lan" else _on_loopback(folder)


@contextlib.contextmanager
def _on_a_lan(folder: Path) -> Iterator[list[Machine]]:
    with lan(NAMES) as cables, contextlib.ExitStack() as disks:
        yield [
            Machine(
                RealNode(cable.name, folder / cable.name, cable.address, LAN_PORT, port=PORT, place=cable),
                cable=cable,
                disk=_disk(folder / cable.name, disks),
                clock=_clock(folder / f"{cable.name}-clock"),
            )
            for cable in cables
        ]


@contextlib.contextmanager
def _on_loopback(folder: Path) -> Iterator[list[Machine]]:
    lan_port = free_port(ADDRESSES[0])
    with contextlib.ExitStack() as disks:
        yield [
            Machine(
                RealNode(name, folder / name, host, lan_port, {"AYNI_RAY": "auto"}),
                cable=None,
                disk=_disk(folder / name, disks),
                clock=_clock(folder / f"{name}-clock"),
            )
            for name, host in zip(NAMES, ADDRESSES, strict=True)
        ]


def _disk(home: Path, disks: contextlib.ExitStack) -> SmallDisk | None:
    """For the node's state; its log is elsewhere, as with systemd."""
    if not can_be_mounted():
        return None
    home.mkdir(parents=True, exist_ok=True)
    made = SmallDisk(home / ".ayni")
    disks.callback(made.remove)
    return made


def _clock(folder: Path) -> WallClock | None:
    return WallClock(folder) if can_be_set() else None
