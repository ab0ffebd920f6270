"""Machines of a LAN with a daemon each: as installed, with mDNS and Ray, on the usual ports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

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


@contextlib.contextmanager
def lan_nodes(folder: Path, *, on: list[Machine], **settings: str) -> Iterator[list[LanNode]]:
    """A daemon on each machine, in no cluster yet; at the end they are stopped, and what they left is the LAN's."""
    nodes = [
        LanNode(m.name, folder / m.name, m.address, LAN_PORT, dict(settings), PORT, place=m, machine=m) for m in on
    ]
    try:
        for node in nodes:
            node.start()
        yield nodes
    finally:
        running = [node.process for node in nodes if node.process is not None and node.process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            process.wait(STOP_LIMIT_S)


@contextlib.contextmanager
def lan_cluster(folder: Path, **settings: str) -> Iterator[list[LanNode]]:
    """Three machines in one cluster whose coordinator hears them all."""
    with lan() as machines, lan_nodes(folder, on=machines, **settings) as nodes:
        form(nodes)
        await_placement(nodes, 1)
        yield nodes


def await_placement(nodes: list[LanNode], generation: int) -> None:
    """Wait until models can be placed on all of these machines by the coordinator of that generation."""
    until(lambda: all(node.is_placed_for(generation) for node in nodes), RAY_LIMIT_S, f"generation {generation}")


def _path(_: type, text: str) -> Path:
    return Path(text)
