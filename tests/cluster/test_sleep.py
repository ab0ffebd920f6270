"""A machine that sleeps: announced by a logind on a bus of the test's own, or noticed afterwards by the clocks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.cluster.asking import running_on
from tests.cluster.real_nodes import ROOT, RealNode, await_all_up, form, real_nodes, until
from tests.support.logind import Logind, system_bus

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon (Debian: apt install dbus)"),
]
# Imported by Python before the daemon's own code: what the file says counts as time that the machine has slept.
SLEEPLIKE = """
import os, time
from pathlib import Path

real, slept = time.clock_gettime, Path(os.environ["HOME"]) / "slept"

def clock_gettime(clock):
    more = float(slept.read_text() or 0) if clock == time.CLOCK_BOOTTIME and slept.exists() else 0.0
    return real(clock) + more

time.clock_gettime = clock_gettime
"""


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with system_bus(tmp_path_factory.mktemp("bus")) as address:
        yield address


@pytest.fixture(scope="module")
def logind(bus: str) -> Iterator[Logind]:
    found = Logind(bus).start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def laptops(tmp_path_factory: pytest.TempPathFactory, bus: str, logind: Logind) -> Iterator[list[RealNode]]:
    """Two machines; the first gives its work away before it sleeps, and its clocks can be made to tell of sleep."""
    folder = tmp_path_factory.mktemp("laptops")
    (folder / "sitecustomize.py").write_text(SLEEPLIKE)
    with real_nodes(folder, 2, DBUS_SYSTEM_BUS_ADDRESS=bus, PYTHONPATH=f"{folder}:{ROOT}") as nodes:
        nodes[0].stop()
        nodes[0].settings["AYNI_SUSPEND"] = "auto"
        nodes[0].start()
        form(nodes)
        yield nodes


@pytest.fixture
def pair(laptops: list[RealNode]) -> tuple[RealNode, RealNode]:
    await_all_up(laptops)
    return laptops[0], laptops[1]


def test_before_it_sleeps_a_machine_gives_its_work_away_and_afterwards_it_is_back(
    pair: tuple[RealNode, RealNode], logind: Logind
) -> None:
    a, b = pair
    until(lambda: logind.open == 1, what="the inhibitor")
    taken = logind.taken
    assert logind.words[0] == "sleep"
    assert logind.words[3] == "delay"
    own, others = running_on(a, b)
    logind.announce(sleep=True)
    until(lambda: logind.open == 0, what="the word that it may sleep")
    assert b.states()["a"] == "lost"
    assert b.nodes()["a"]["reason"] == "it is leaving"
    assert others.is_alive(), "it only waited for the end"
    assert others.whole()["ayni"]["resumed"] == 1
    logind.announce(sleep=False)
    await_all_up([a, b])
    until(lambda: (logind.taken, logind.open) == (taken + 1, 1), what="the next inhibitor")
    assert own.whole()["ayni"]["resumed"] >= 1
    assert a.ask("POST", "/api/cluster/explain", {"model": "demo"})["node"] in {"a", "b"}


def test_a_machine_that_is_drained_wakes_up_drained(pair: tuple[RealNode, RealNode], logind: Logind) -> None:
    _, b = pair
    b.ask("POST", "/api/cluster/nodes/a/drain", {"drain": True})
    logind.announce(sleep=True)
    until(lambda: b.states()["a"] == "lost", what="its goodbye")
    logind.announce(sleep=False)
    until(lambda: b.states()["a"] == "draining", what="its return")
    b.ask("POST", "/api/cluster/nodes/a/drain", {"drain": False})


def test_a_sleep_that_nothing_announced_is_noticed_afterwards(pair: tuple[RealNode, RealNode]) -> None:
    a, b = pair
    _, stream = running_on(b, a)
    (a.home / "slept").write_text("3600")
    until(lambda: "this machine slept seconds=3600" in a.log, what="the notice")
    assert stream.whole()["ayni"]["resumed"] >= 1
    await_all_up([a, b])


def test_a_logind_that_is_restarted_gets_the_inhibitor_anew(
    pair: tuple[RealNode, RealNode], logind: Logind, bus: str
) -> None:
    a, b = pair
    logind.stop()
    logind.__init__(bus)  # type: ignore[misc]
    logind.start()
    until(lambda: logind.open == 1, what="the inhibitor")
    logind.announce(sleep=True)
    until(lambda: b.states()["a"] == "lost", what="its goodbye")
    logind.announce(sleep=False)
    await_all_up([a, b])
    # Of the two machines on this bus only the one with the setting has ever asked for an inhibitor.
    assert logind.taken == 2
