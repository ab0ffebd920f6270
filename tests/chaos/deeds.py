"""Carry events out: each `Deed` on the machine it is meant for, for as long as it lasts."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence

import httpx

from tests.chaos.events import DEEDS, Deed, Event
from tests.chaos.machines import AGENT, CONTROL_STORE, COORDINATOR, RAYLET, Machine, suspended

# Who is to be hit may be just starting.
APPEAR_S = 45.0
LOOK_S = 0.05
CREATE_LIMIT_S = 30.0

Find = Callable[[Machine], list[int]]


def _ray(name: str) -> Find:
    return lambda machine: machine.ray(name)


PROCESSES: dict[str, Find] = {
    "daemon": Machine.daemon,
    "runner": Machine.runners,
    "raylet": _ray(RAYLET),
    "control store": _ray(CONTROL_STORE),
    "agent": _ray(AGENT),
    "coordinator": _ray(COORDINATOR),
}


def possible(machines: Sequence[Machine]) -> list[Deed]:
    """What can be done to these machines by this user on this system."""
    lacking = {
        "pull cable": any(machine.cable is None for machine in machines),
        "cut link": any(machine.cable is None for machine in machines),
        "fill disk": any(machine.disk is None for machine in machines),
        "step clock": any(machine.clock is None for machine in machines),
    }
    return [deed for deed in DEEDS if not lacking.get(deed, False)]


def carry_out(event: Event, machines: Sequence[Machine]) -> str:
    """Do it, wait for its end, and say what was done; "": nobody had what was to be hit."""
    machine = machines[event.machine]
    match event.deed.split(" ", 1):
        case ["kill", "daemon"]:
            pid = machine.kill()
            return f"{machine.name}: killed daemon {pid}" if pid else ""
        case ["restart", "daemon"]:
            pid = machine.restart()
            return f"{machine.name}: told daemon {pid} to end" if pid else ""
        case ["kill", what]:
            return _kill(machines, event, what)
        case ["pause", what]:
            return _pause(machines, event, what)
        case ["pull", "cable"]:
            return _pull(machine, event)
        case ["cut", "link"]:
            return _cut(machine, event)
        case ["fill", _]:
            return _fill(machine, event)
        case _:
            return _step(machine, event)


def _kill(machines: Sequence[Machine], event: Event, what: str) -> str:
    machine, pids = _found(machines, event, PROCESSES[what])
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return f"{machine.name}: killed {what} {pids}" if pids else ""


def _pause(machines: Sequence[Machine], event: Event, what: str) -> str:
    machine, pids = _found(machines, event, PROCESSES[what])
    with suspended(pids) as held:
        time.sleep(event.for_s)
    return f"{machine.name}: paused {what} {held} for {event.for_s:.1f} s" if held else ""


def _pull(machine: Machine, event: Event) -> str:
    assert machine.cable is not None
    machine.cable.cut()
    try:
        time.sleep(event.for_s)
    finally:
        machine.cable.mend()
    return f"{machine.name}: its cable was pulled for {event.for_s:.1f} s"


def _cut(machine: Machine, event: Event) -> str:
    assert machine.cable is not None
    with machine.cable.bad_link(loss=1.0):
        time.sleep(event.for_s)
    return f"{machine.name}: its link lost everything for {event.for_s:.1f} s"


def _fill(machine: Machine, event: Event) -> str:
    assert machine.disk is not None
    with machine.disk.filled():
        ended_s = time.monotonic() + event.for_s
        said = _create(machine, event)
        time.sleep(max(0.0, ended_s - time.monotonic()))
    return f"{machine.name}: disk full for {event.for_s:.1f} s; making a model there: {said}"


def _step(machine: Machine, event: Event) -> str:
    assert machine.clock is not None
    machine.clock.set_ahead(event.step_s)
    time.sleep(event.for_s)
    machine.clock.set_ahead(0.0)
    return f"{machine.name}: clock {event.step_s:+.0f} s for {event.for_s:.1f} s"


def _found(machines: Sequence[Machine], event: Event, find: Find) -> tuple[Machine, list[int]]:
    """The machine meant, or the next one that has such a process; waits while none has."""
    deadline_s = time.monotonic() + APPEAR_S
    while time.monotonic() < deadline_s:
        for step in range(len(machines)):
            machine = machines[(event.machine + step) % len(machines)]
            if pids := find(machine):
                return machine, pids
        time.sleep(LOOK_S)
    return machines[event.machine], []


def _create(machine: Machine, event: Event) -> str:
    """Have something written there; what the node says to that."""
    body = {"model": f"chaos-{event.number}", "from": "demo", "system": "x" * 10_000, "stream": False}
    try:
        with machine.inside():
            answer = httpx.post(f"{machine.node.url}/api/create", json=body, timeout=CREATE_LIMIT_S)
    except httpx.HTTPError as error:
        return type(error).__name__
    return f"{answer.status_code} {answer.text[:200]}"
