"""Real daemons of one cluster: each `ayni serve` with a home of its own, on an address of 127.0.0.0/8 or elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from cli.credential import credential
from node.setting_values import Address

ROOT = Path(__file__).parents[2]
ADDRESSES = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
START_LIMIT_S = 20.0


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], limit_s: float = 30.0, what: str = "it") -> Any:
    """Wait for something that happens by itself; its first true value."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {limit_s} s")


class Place(Protocol):
    """Where a daemon runs."""

    def command(self, words: Sequence[str]) -> list[str]:
        """What runs a command there, as the process that is started."""
        ...

    def inside(self) -> AbstractContextManager[None]:
        """The connections that this thread opens within the block begin there."""
        ...


class Here:
    """This machine as it is."""

    def command(self, words: Sequence[str]) -> list[str]:
        return list(words)

    def inside(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


def loopback_settings(host: str) -> dict[str, str]:
    """For one of several daemons on one machine; what they do not share with others is tested elsewhere."""
    return {
        "AYNI_LAN_HOST": host,
        "AYNI_DISCOVERY": "off",
        "AYNI_RAY": "off",
        "AYNI_SUSPEND": "off",
        "AYNI_DRAIN_TIMEOUT": "90s",
        # Two that begin at the same moment would both take the first block that is free.
        "AYNI_RAY_PORT": str(22_000 + 512 * ADDRESSES.index(host)),
    }


@dataclass
class RealNode:
    """One machine: its daemon, which may be killed and started again."""

    name: str
    home: Path
    host: str
    lan_port: int
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    place: Place = field(default_factory=Here)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def lan_url(self) -> str:
        return f"https://{self.host}:{self.lan_port}"

    @property
    def log(self) -> str:
        return (self.home / "daemon.log").read_text(errors="replace")

    @property
    def ca(self) -> Path:
        return self.home / ".ayni" / "cluster" / "identity" / "ca.pem"

    def start(self, limit_s: float = START_LIMIT_S) -> RealNode:
        self.home.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AYNI_", "OLLAMA_", "XDG_"))}
        own = {
            "HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "AYNI_HOST": f"127.0.0.1:{self.port}",
            "AYNI_NODE_NAME": self.name,
            "AYNI_LAN_PORT": str(self.lan_port),
        } | (loopback_settings(self.host) if self.host in ADDRESSES else {})
        with (self.home / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.place.command([sys.executable, "-m", "cli", "serve"]),
                cwd=ROOT,
                env=kept | own | self.settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self.answers, limit_s, f"the start of {self.name}: {self.log[-2000:]}")
        return self

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log[-4000:]
        try:
            with self.place.inside():
                return httpx.get(f"{self.url}/api/version", timeout=START_LIMIT_S).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """As a power failure would end it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(25)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def own_user(self) -> dict[str, str]:
        """Headers by which the daemon knows that its own user asks."""
        return {"authorization": f"Bearer {credential(Address(port=self.port), self.home / '.ayni')}"}

    def ask(self, method: str, path: str, body: object = None, *, limit_s: float = 30.0) -> dict[str, Any]:
        """A request of its own user on loopback that must succeed."""
        with self.place.inside():
            answer = httpx.request(method, f"{self.url}{path}", json=body, headers=self.own_user, timeout=limit_s)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        found = answer.json() if answer.content else {}
        assert isinstance(found, dict)
        return found

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in self.ask("GET", "/api/cluster/nodes")["nodes"]}

    def states(self) -> dict[str, str]:
        return {name: node["state"] for name, node in self.nodes().items()}


@contextlib.contextmanager
def real_nodes(folder: Path, count: int = 3, **settings: str) -> Iterator[list[RealNode]]:
    """Daemons that belong to no cluster yet."""
    port = free_port(ADDRESSES[0])
    nodes = [
        RealNode(name, folder / name, host, port, dict(settings))
        for name, host in list(zip("abc", ADDRESSES, strict=True))[:count]
    ]
    try:
        for node in nodes:
            node.start()
        yield nodes
    finally:
        for node in nodes:
            if node.process is not None and node.process.poll() is None:
                node.kill()


def form(nodes: Sequence[RealNode]) -> None:
    """Make one cluster of them, with the first as its creator."""
    first, *others = nodes
    first.ask("POST", "/api/cluster", {"name": "home"})
    line = first.ask("POST", "/api/cluster/invitations", {"uses": max(1, len(others))})["invitation"]
    for other in others:
        other.ask("POST", "/api/cluster/join", {"invitation": line})
    await_all_up(nodes)


def await_all_up(nodes: Sequence[RealNode], limit_s: float = 30.0) -> None:
    names = {node.name for node in nodes}
    until(
        lambda: all(set(node.states()) == names and set(node.states().values()) == {"up"} for node in nodes),
        limit_s,
        "all members seeing each other",
    )
