"""Whether a cluster is as it was: all there, in one generation, nothing held by requests that have ended."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.chaos.machines import COORDINATOR, Machine
from tests.cluster.real_nodes import until

# Connections between daemons are pooled, and Python's threads come by need.
FDS_TOLERANCE = 12
LIMIT_S = 10.0
PLACEMENT_LIMIT_S = 30.0
RAY_PROCESSES = 4  # raylet, its two helpers, our agent


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a machine's daemon holds: open descriptors by kind, children by name."""

    descriptors: Counter[str]
    files: frozenset[str]

    @classmethod
    def of(cls, machine: Machine) -> Holdings:
        descriptors: Counter[str] = Counter()
        for pid in machine.daemon():
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(entry.readlink())
                    descriptors[target.partition(":")[0] if target.partition(":")[1] else "file"] += 1
        return cls(descriptors, frozenset(_temporary(machine.state_dir)))

    def grown_since(self, before: Holdings) -> list[str]:
        """What is more than it was, beyond tolerance."""
        more = [
            f"{count} descriptors of kind {kind}, {before.descriptors[kind]} before"
            for kind, count in self.descriptors.items()
            if count > before.descriptors[kind] + FDS_TOLERANCE
        ]
        return more + [f"temporary file {name}" for name in sorted(self.files - before.files)]


def troubles(machines: Sequence[Machine], before: dict[str, Holdings]) -> list[str]:
    """Why the cluster is not whole and at rest, in words; none: it is."""
    found = []
    seen: list[tuple[object, ...]] = []
    for machine in machines:
        try:
            with machine.inside():
                nodes, cluster = _get(machine, "/api/cluster/nodes")["nodes"], _get(machine, "/api/cluster")
        except httpx.HTTPError as error:
            found.append(f"{machine.name} does not answer: {error!r}")
            continue
        found += [f"{machine.name} sees {n['name']} {n['state']} ({n['reason']})" for n in nodes if n["state"] != "up"]
        found += [
            f"{machine.name} sees {r['active']} active and {r['queued']} queued at {n['name']}"
            for n in nodes
            for r in n["resident"]
            if r["active"] or r["queued"]
        ]
        heads = tuple(n["name"] for n in nodes if n["head"])
        ray = cluster["ray"]
        seen.append((heads, cluster["generation"], ray["generation"]))
        if len(nodes) != len(machines) or len(heads) != 1:
            found.append(f"{machine.name} sees {len(nodes)} nodes with heads {heads}")
        if ray["state"] != "up" or ray["reason"]:
            found.append(f"{machine.name}'s Ray: {ray}")
        found += _strays(machine, [n for n in nodes if n["me"]])
        found += [f"{machine.name}: {growth}" for growth in Holdings.of(machine).grown_since(before[machine.name])]
    if len(set(seen)) > 1:
        found.append(f"generations differ: {seen}")
    return found


def _strays(machine: Machine, me: list[dict[str, Any]]) -> Iterator[str]:
    """Processes that nothing needs, and folders."""
    runners = machine.runners()
    loaded = sum(len(node["resident"]) for node in me)
    if len(runners) != loaded:
        yield f"{machine.name} has {len(runners)} runners for {loaded} models"
    ray = machine.ray()
    # The head has the control store too, and the coordinator.
    if len(ray) != RAY_PROCESSES + (2 if machine.ray(COORDINATOR) else 0):
        yield f"{machine.name} has {len(ray)} Ray processes: {[_name(pid) for pid in ray]}"
    for child in machine.children():
        with contextlib.suppress(psutil.Error):
            if child.status() == psutil.STATUS_ZOMBIE:
                yield f"{machine.name} has a zombie: {child.name()}"
    if len(folders := [folder for folder in machine.session_folders if folder.exists()]) > 1:
        yield f"{machine.name} has session folders {folders}"


def placement_troubles(machines: Sequence[Machine]) -> list[str]:
    """Why the coordinator's orders do not arrive: it is to empty a machine that is drained."""
    asker, place = machines[0].node, machines[-1].node
    orders = place.log.count("order Unload")
    try:
        asker.ask("POST", "/api/cluster/pins", {"model": "demo", "nodes": [place.name]})
        until(lambda: place.nodes()[place.name]["resident"], PLACEMENT_LIMIT_S, "the load of a pinned model")
        asker.ask("DELETE", "/api/cluster/pins/demo")
        asker.ask("POST", f"/api/cluster/nodes/{place.name}/drain", {"drain": True})
        until(lambda: place.log.count("order Unload") > orders, PLACEMENT_LIMIT_S, "an order to the drained machine")
        until(lambda: not place.nodes()[place.name]["resident"], PLACEMENT_LIMIT_S, "the unload on it")
        asker.ask("POST", f"/api/cluster/nodes/{place.name}/drain", {"drain": False})
        until(lambda: asker.states()[place.name] == "up", PLACEMENT_LIMIT_S, "its return")
    except AssertionError as error:
        return [f"placement: {error}"]
    return []


def left_behind(machines: Sequence[Machine], folder: Path) -> list[str]:
    """What is there after all have ended, and should not be."""
    folders = {each for machine in machines for each in machine.session_folders}
    found = [f"folder {each}" for each in folders if each.exists()]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            if Path(process.cwd()) in folders or str(folder) in process.environ().get("HOME", ""):
                found.append(f"process {process.pid} {process.cmdline()[:4]}")
    return found


def _temporary(folder: Path) -> Iterator[str]:
    """Files that are on their way to another name."""
    for path in folder.rglob("*"):
        if path.name.endswith(".partial") or (path.name.startswith(".") and path.suffix):
            yield str(path.relative_to(folder))


def _get(machine: Machine, path: str) -> dict[str, Any]:
    answer = httpx.get(f"{machine.node.url}{path}", timeout=LIMIT_S)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "gone"
