"""The LAN of the tests itself."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from node.ray_session.processes import is_alive
from tests.cluster.real_nodes import ROOT, until
from tests.support.netns import lan, why_no_lan

if reason := why_no_lan():
    pytest.skip(reason, allow_module_level=True)


def reaches(server: socket.socket, *, limit_s: float = 0.5) -> bool:
    try:
        with socket.create_connection(server.getsockname(), limit_s):
            return True
    except OSError:
        return False


def test_machines_reach_each_other_until_a_cable_is_pulled_or_bad() -> None:
    with lan(("a", "b")) as (a, b):
        with a.inside():
            server = socket.create_server((a.address, 5000))
        with server, b.inside():
            assert reaches(server)
            a.cut()
            assert not reaches(server)
            a.mend()
            until(lambda: reaches(server), what="the link back")
            with b.bad_link(delay_s=0.1):
                began_s = time.monotonic()
                assert reaches(server, limit_s=5)
                assert time.monotonic() - began_s >= 0.2  # there and back
            with b.bad_link(loss=1.0):
                assert not reaches(server)
            until(lambda: reaches(server), what="the link back")
        assert not reaches(server)


def test_a_run_that_is_killed_leaves_no_namespace_and_no_process() -> None:
    script = """
import subprocess, time
from tests.support.netns import lan
with lan(("a",)) as (a,):
    with subprocess.Popen(a.command(["sleep", "300"])) as sleeper:
        print(a.namespace, a.hub, sleeper.pid, flush=True)
        time.sleep(300)
"""
    run = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        *spaces, sleeper = run.stdout.readline().split()
        assert all(Path("/run/netns", space).exists() for space in spaces)
        run.kill()
    until(lambda: not any(Path("/run/netns", space).exists() for space in spaces), 20, "the end of the namespaces")
    assert not is_alive(int(sleeper))
