"""Nodes for the demonstration: daemons on this machine, each with folders and addresses of its own, gone afterwards.

Nothing of the person's own settings reaches them, they speak on loopback only, and whatever way the demonstration
ends, their processes and folders do too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cli.client import Client
from cli.credential import credential
from cli.errors import CommandError, ConnectionLost, NotRunning, ServerError
from cli.fields import list_of, object_of, text_of
from cli.start import last_words
from node.setting_values import Address

if TYPE_CHECKING:
    import psutil

T = TypeVar("T")

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")
START_LIMIT_S = 60.0
STOP_LIMIT_S = 15.0
POLL_S = 0.05
FOREIGN_VARIABLES = ("AYNI_", "OLLAMA_", "XDG_")


@dataclass
class DemoNode:
    """One daemon that stands for a machine."""

    name: str
    host: str
    port: int
    lan_port: int
    folder: Path
    with_ray: bool
    process: subprocess.Popen[bytes] | None = None
    offspring: list[psutil.Process] = field(default_factory=list)

    @property
    def client(self) -> Client:
        """Its loopback API."""
        address = Address(host=self.host, port=self.port)
        return Client(address, partial(credential, address, self.folder / ".ayni"))

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "daemon.log"

    def start(self) -> None:
        """Start the daemon; does not wait for it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN_VARIABLES)}
        own = {
            "HOME": str(self.folder),
            "AYNI_HOST": f"{self.host}:{self.port}",
            "AYNI_NODE_NAME": self.name,
            "AYNI_LAN_HOST": self.host,
            "AYNI_LAN_PORT": str(self.lan_port),
            "AYNI_DISCOVERY": "off",
            "AYNI_RAY": "auto" if self.with_ray else "off",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", "serve"],
                cwd=Path(__file__).resolve().parents[1],
                env=kept | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, who then end it in order
            )

    def answers(self) -> bool:
        """Whether it is up. Raises CommandError: it has ended instead."""
        if self.process is None or self.process.poll() is not None:
            raise CommandError(f"{self.name} did not start: {last_words(self.log, 0)}")
        try:
            self.client.ask("GET", "/api/version", timeout_s=2.0)
        except (NotRunning, ConnectionLost):
            return False
        return True

    def kill(self) -> None:
        """End it at once and without a word, as a power cut would."""
        assert self.process is not None
        self._note_offspring()
        self.process.kill()
        self.process.wait(STOP_LIMIT_S)

    def end(self) -> None:
        """Ask it to end; does not wait for it."""
        if self.process is not None and self.process.poll() is None:
            self._note_offspring()
            self.process.terminate()

    def clear_away(self, deadline_s: float) -> None:
        """Wait for its end, and end what has outlived it: its runners, its Ray session."""
        if self.process is not None:
            try:
                self.process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._note_offspring()
                self.process.kill()
                self.process.wait(STOP_LIMIT_S)
        import psutil

        for left in self.offspring:
            with contextlib.suppress(psutil.Error):
                left.kill()
        if self.with_ray:
            from node.ray_session.leftover import sweep

            for record in self.folder.rglob("session.json"):
                sweep(record.parent)

    def _note_offspring(self) -> None:
        import psutil

        assert self.process is not None
        with contextlib.suppress(psutil.Error):
            self.offspring += psutil.Process(self.process.pid).children(recursive=True)

    def view(self) -> dict[str, dict[str, Any]]:
        """The cluster's nodes as this one sees them, by name; nothing while it can't say."""
        try:
            answer = self.client.ask("GET", "/api/cluster/nodes", timeout_s=5.0)
        except (NotRunning, ConnectionLost, ServerError):
            return {}
        return {text_of(node, "name"): node for node in list_of(answer, "nodes") if isinstance(node, dict)}

    def states(self) -> dict[str, str]:
        """How each node is, in this one's view."""
        return {name: text_of(node, "state") for name, node in self.view().items()}

    def takes_part_in_ray(self) -> bool:
        """Whether its Ray session runs."""
        cluster = self.client.ask("GET", "/api/cluster", timeout_s=5.0)
        return text_of(object_of(cluster, "ray"), "state") == "up"

    def has_in_memory(self, name: str, model: str) -> bool:
        """Whether a node has a model in memory, in this one's view."""
        resident = list_of(self.view().get(name, {}), "resident")
        return any(isinstance(each, dict) and text_of(each, "name").startswith(model) for each in resident)


@contextlib.contextmanager
def demo_nodes(count: int, *, with_ray: bool, keep_folder: bool) -> Iterator[list[DemoNode]]:
    """Nodes that are not started yet; everything of theirs is ended and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ayni-demo-"))
    nodes: list[DemoNode] = []
    try:
        for name, host in zip(NAMES, _hosts(count), strict=False):
            port, lan_port = _free_ports(host)
            nodes.append(DemoNode(name, host, port, lan_port, folder / name, with_ray))
        yield nodes
    finally:
        for node in nodes:
            node.end()
        deadline_s = time.monotonic() + STOP_LIMIT_S
        for node in nodes:
            node.clear_away(deadline_s)
        if not keep_folder:
            shutil.rmtree(folder, ignore_errors=True)


def _hosts(count: int) -> Sequence[str]:
    """An address for each; one for all where the system has given its loopback only one, as macOS does."""
    own = [f"127.0.0.{number}" for number in range(11, 11 + count)]
    try:
        for host in own:
            with socket.socket() as probe:
                probe.bind((host, 0))
    except OSError:
        return ["127.0.0.1"] * count
    return own


def _free_ports(host: str) -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind((host, 0))
        second.bind((host, 0))
        return int(first.getsockname()[1]), int(second.getsockname()[1])


def wait_for(condition: Callable[[], T], limit_s: float, what: str) -> T:
    """The first true value. Raises CommandError: `what` did not happen in time."""
    deadline_s = time.monotonic() + limit_s
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline_s:
            raise CommandError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(POLL_S)
