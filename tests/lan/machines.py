"""Machines of a LAN with a daemon each: as installed, with mDNS and Ray, on the usual ports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil

from node.ray_session import leftover, processes
from tests.cluster.real_nodes import RealNode, form, until
from tests.support.netns import Machine, lan

PORT, LAN_PORT = 11434, 11435
# On a quiet machine Ray takes 3-6 s for each of its parts.
RAY_LIMIT_S = 90.0
STOP_LIMIT_S = 40.0


@dataclass
class LanNode(RealNode):
    """A daemon and its machine."""

    machine: Machine = field(kw_only=True)

    def ray_processes(self) -> dict[str, int]:
        """Those of its session by name ("gcs_server", "raylet", "ray::NodeAgent"); none: there is no session."""
        record_path = self.home / ".ayni" / "cluster" / "ray" / leftover.FILE
        try:
            record = msgspec.json.decode(record_path.read_bytes(), type=leftover.SessionRecord, dec_hook=_path)
        except OSError:
            return {}
        members = processes.members(record.session_id, record.folder)
        return {Path(words[0]).name.strip(): pid for pid, words in members.items() if words}

    def ray_status(self) -> dict[str, Any]:
        """How it stands with Ray: `state`, `role`, `generation`, `reason` ("": the coordinator hears it)."""
        status = self.ask("GET", "/api/cluster")["ray"]
        assert isinstance(status, dict)
        return status

    def is_placed_for(self, generation: int) -> bool:
        """Whether the coordinator of that generation hears this machine, and so can place models on it."""
        status = self.ray_status()
        return (status["state"], status["generation"], status["reason"]) == ("up", generation, "")

    def runners(self) -> list[int]:
        """The processes that hold models."""
        assert self.process is not None
        found = []
        for each in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it is just ending
                if "node.runner" in each.cmdline():
                    found.append(each.pid)
        return found

    def switch_off(self) -> None:
        """As a power failure would: everything that runs on the machine is gone at once."""
        assert self.process is not None
        for pid in self.machine.pids():
            processes.kill(pid)
        self.process.wait()
        for record in self.home.rglob(leftover.FILE):
            leftover.sweep(record.parent)  # a folder in /tmp, which would be empty after a real one

    def move(self, address: str) -> None:
        """Have another address from now on."""
        self.machine = self.place = self.machine.move(address)
        self.host = address


@dataclass
class LanCluster:
    """Machines in a cluster.

    Attributes:
        generation: of the Ray cluster, as the tests have brought it about.
        head: the node that heads it.
    """

    nodes: list[LanNode]
    head: LanNode
    generation: int = 1

    @property
    def workers(self) -> list[LanNode]:
        """Those that head nothing."""
        return [node for node in self.nodes if node is not self.head]

    def await_placement(self, nodes: list[LanNode] | None = None) -> None:
        """Wait until models can be placed on these machines (None: all) by the present generation's coordinator."""
        nodes = nodes or self.nodes
        until(
            lambda: all(node.is_placed_for(self.generation) for node in nodes),
            RAY_LIMIT_S,
            f"generation {self.generation}",
        )

    def await_next_generation(self, nodes: list[LanNode]) -> None:
        """Wait until these machines have made the next generation, and note its head."""
        self.generation += 1
        self.await_placement(nodes)
        self.head = next(node for node in nodes if node.ray_status()["role"] == "head")

    def starts(self) -> list[int]:
        """How many Ray sessions each node has had."""
        return [node.log.count("in the Ray cluster generation=") for node in self.nodes]


@contextlib.contextmanager
def lan_nodes(folder: Path, machines: Sequence[Machine]) -> Iterator[list[LanNode]]:
    """A daemon for each machine, not started yet; at the end they are stopped."""
    nodes = [LanNode(m.name, folder / m.name, m.address, LAN_PORT, {}, PORT, place=m, machine=m) for m in machines]
    try:
        yield nodes
    finally:
        running = [node.process for node in nodes if node.process is not None and node.process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            process.wait(STOP_LIMIT_S)


@contextlib.contextmanager
def lan_cluster(folder: Path) -> Iterator[tuple[LanCluster, LanNode]]:
    """Three machines that have formed a cluster, and one that is in none and not started."""
    with lan(("a", "b", "c", "d")) as machines, lan_nodes(folder, machines) as (*nodes, other):
        for node in nodes:
            node.start()
        yield form_with_ray(nodes), other


def form_with_ray(nodes: list[LanNode]) -> LanCluster:
    """Make one cluster of them, and wait until its coordinator hears them all."""
    form(nodes)
    until(lambda: any(node.ray_status()["role"] == "head" for node in nodes), RAY_LIMIT_S, "an election")
    cluster = LanCluster(nodes, head=next(node for node in nodes if node.ray_status()["role"] == "head"))
    cluster.await_placement()
    return cluster


@contextlib.contextmanager
def no_model_unloaded(nodes: list[LanNode]) -> Iterator[None]:
    """Whatever these machines have in memory is there all the time, in the same processes."""
    before = [node.runners() for node in nodes]
    assert any(before)
    yield
    assert [node.runners() for node in nodes] == before


def _path(_: type, text: str) -> Path:
    return Path(text)
