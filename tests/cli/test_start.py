"""Stopping a node, and not starting one where none belongs; the real daemon is driven in tests/e2e."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from node.daemon_file import daemon_file, read_daemon_record
from tests.cli.scripted_node import ROOT, Command, Reply, ScriptedNode

STAND_IN = """
import sys, time
from pathlib import Path
from node.daemon_file import write_daemon_record
write_daemon_record(Path(sys.argv[1]), host="127.0.0.1", port=1, version="0", key="k")
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def daemon(ayni: Command) -> Iterator[subprocess.Popen[bytes]]:
    """A process that says it is the daemon at the configured address."""
    process = subprocess.Popen(
        [sys.executable, "-c", STAND_IN, str(ayni.home / ".ayni")], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.communicate()


def test_shutdown_stops_the_daemon_of_the_configured_port(ayni: Command, daemon: subprocess.Popen[bytes]) -> None:
    done = ayni("shutdown")
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped the node at 127.0.0.1:1\n", "")
    assert daemon.wait(5) == -signal.SIGTERM


def test_shutdown_spares_a_process_that_only_has_the_daemons_number(
    ayni: Command, daemon: subprocess.Popen[bytes]
) -> None:
    state = ayni.home / ".ayni"
    record = read_daemon_record(state, 1)
    assert record is not None
    stale = msgspec.structs.replace(record, started_at=record.started_at - 3600)
    daemon_file(state, 1).write_bytes(msgspec.json.encode(stale))
    done = ayni("shutdown")
    assert (done.returncode, done.stderr) == (1, "Error: no node is running at http://127.0.0.1:1\n")
    assert daemon.poll() is None


def test_shutdown_leaves_alone_what_it_did_not_start(with_node: Command, node: ScriptedNode) -> None:
    done = with_node("shutdown")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: what answers at http://{node.address} is no node started with this state folder\n"


def test_shutdown_of_another_machine_is_refused(ayni: Command) -> None:
    ayni.environ["AYNI_HOST"] = "gpu-box.invalid:11434"
    assert ayni("shutdown").stderr.startswith("Error: http://gpu-box.invalid:11434 is another machine")


def test_run_starts_nothing_for_another_machine_or_when_told_so(ayni: Command, tmp_path: Path) -> None:
    refused = ayni("run", "demo", "hi", "--no-start")
    ayni.environ["AYNI_HOST"] = "gpu-box.invalid:11434"
    for done in (refused, ayni("run", "demo", "hi")):
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: could not connect to a node at http://")
    assert not (ayni.home / ".ayni").exists()


def test_run_uses_whatever_node_answers(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/show"] = Reply({"capabilities": ["completion"]})
    node.answers["POST /api/generate"] = Reply([{"response": "Hi"}, {"done": True}])
    done = with_node("run", "demo", "hi")
    assert (done.stdout, done.stderr) == ("Hi\n\n", "")


def test_a_node_that_cannot_start_says_why(ayni: Command) -> None:
    ayni.environ["AYNI_NUM_PARALLEL"] = "many"
    done = ayni("run", "demo", "hi")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: bad setting AYNI_NUM_PARALLEL = 'many'")
