"""A LAN for tests: machines as network namespaces, joined by a bridge in one more namespace. Linux and root only.

Nothing is attached to a real interface, so nothing can leave: cables can be pulled and links be made bad. Whatever way
the test run ends, a guard (a shell that waits for the end of its pipe) ends what runs in the namespaces and removes
them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NETWORK, PREFIX_BITS = "198.18.77", 24
# Every machine's only interface besides loopback.
INTERFACE = "lan0"
COMMAND_LIMIT_S = 10.0
GUARD_LIMIT_S = 20.0
_CLONE_NEWNET = 0x40000000
# First all but the guards of Ray sessions, which then remove their sessions' folders; at last those as well.
_GUARD = """
read -r word
for ns in "$@"; do for pid in $(ip netns pids "$ns"); do
    grep -qs ayni-ray-guard "/proc/$pid/cmdline" || kill -9 "$pid"
done; done
for try in $(seq 50); do
    left=; for ns in "$@"; do left="$left$(ip netns pids "$ns")"; done
    [ -z "$left" ] && break
    sleep 0.2
done
for ns in "$@"; do
    for pid in $(ip netns pids "$ns"); do kill -9 "$pid"; done
    ip netns del "$ns"
done
"""


def why_no_lan() -> str:
    """Why there can be no such LAN here; "": there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip` command (Debian: iproute2)"
    name = f"ayni-{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", name)
        try:
            _ip("-n", name, "link", "add", "bridge", "type", "bridge")
            _ip("netns", "exec", name, "true")
        finally:
            _ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"
    return ""


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of the LAN. `namespace` is its own, `hub` the bridge's."""

    name: str
    namespace: str
    hub: str
    address: str

    @property
    def port(self) -> str:
        """The bridge's end of its cable."""
        return f"port-{self.name}"

    def command(self, words: Sequence[str]) -> list[str]:
        """What runs a command on this machine; the process that is started becomes the command."""
        return ["ip", "netns", "exec", self.namespace, *words]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The sockets that this thread opens within the block are this machine's, and stay so."""
        with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", self.namespace).open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def pids(self) -> list[int]:
        """Every process that runs on it."""
        return [int(word) for word in _ip("netns", "pids", self.namespace).split()]

    def cut(self) -> None:
        """Pull the cable: nothing passes, and the machine's interface has no carrier."""
        _ip("-n", self.hub, "link", "set", "dev", self.port, "down")

    def mend(self) -> None:
        """Plug it in again."""
        _ip("-n", self.hub, "link", "set", "dev", self.port, "up")

    @contextlib.contextmanager
    def bad_link(self, *, delay_s: float = 0.0, loss: float = 0.0) -> Iterator[None]:
        """Within the block each frame from and to this machine takes that much longer, or (a share of them) is lost.

        With all of them lost the link is cut without a word: the machine's interface keeps its carrier.
        """
        near, far = f"{self.name}-near", f"{self.name}-far"
        _ip("-n", self.hub, "link", "add", near, "type", "veth", "peer", "name", far)
        _ip("-n", self.hub, "link", "set", near, "up")
        _ip("-n", self.hub, "link", "set", far, "up", "master", "bridge")
        _ip("-n", self.hub, "link", "set", "dev", self.port, "nomaster")
        words = (sys.executable, "-P", "-m", "tests.support.bad_link", self.port, near, str(delay_s), str(loss))
        relay = subprocess.Popen(
            ["ip", "netns", "exec", self.hub, *words],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
        )
        try:
            assert relay.stdout is not None
            assert relay.stdout.readline() == b"ready\n"
            yield
        finally:
            relay.kill()
            relay.communicate()
            _ip("-n", self.hub, "link", "del", near)
            _ip("-n", self.hub, "link", "set", "dev", self.port, "master", "bridge")

    def move(self, address: str) -> Machine:
        """Give it another address in place of the present one, as a router does now and then."""
        _ip("-n", self.namespace, "addr", "del", f"{self.address}/{PREFIX_BITS}", "dev", INTERFACE)
        moved = Machine(self.name, self.namespace, self.hub, address)
        _address(moved)
        return moved


@contextlib.contextmanager
def lan(names: Sequence[str] = ("a", "b", "c")) -> Iterator[list[Machine]]:
    """Machines with the addresses 198.18.77.11 and up; at the end all that runs on them is killed."""
    run = f"ayni-{secrets.token_hex(3)}"
    hub = f"{run}-hub"
    machines = [Machine(name, f"{run}-{name}", hub, f"{NETWORK}.{11 + i}") for i, name in enumerate(names)]
    spaces = [hub, *(machine.namespace for machine in machines)]
    guard = subprocess.Popen(
        ["sh", "-c", _GUARD, "guard", *spaces],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the tests
    )
    try:
        for space in spaces:
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
        # Without a router nobody asks who wants which group, so a bridge that listened for that would drop them all.
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for machine in machines:
            _plug_in(machine)
        yield machines
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(GUARD_LIMIT_S)


def _plug_in(machine: Machine) -> None:
    space = machine.namespace
    _ip("-n", machine.hub, "link", "add", machine.port, "type", "veth", "peer", "name", INTERFACE, "netns", space)
    _ip("-n", machine.hub, "link", "set", "dev", machine.port, "up", "master", "bridge")
    _ip("-n", space, "link", "set", INTERFACE, "up")
    _address(machine)


def _address(machine: Machine) -> None:
    _ip("-n", machine.namespace, "addr", "add", f"{machine.address}/{PREFIX_BITS}", "dev", INTERFACE)
    # Multicast goes where the default route goes, and there is none.
    _ip("-n", machine.namespace, "route", "add", "224.0.0.0/4", "dev", INTERFACE)


def _ip(*words: str) -> str:
    """Raises CalledProcessError, with what `ip` said."""
    return subprocess.run(
        ["ip", *words], check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_LIMIT_S
    ).stdout


def _enter(descriptor: int) -> None:
    # os.setns comes with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "can't enter the network namespace")
