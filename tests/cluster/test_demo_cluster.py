"""The demonstration as a newcomer runs it: with real daemons, to its end and stopped in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 100.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demonstration makes its folders; a short path, as sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="ayni-test-") as made:
        yield Path(made)


def demonstrate(folder: Path, *words: str) -> subprocess.Popen[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AYNI_", "OLLAMA_", "XDG_"))}
    # What the person has set must reach no node: this would keep each of them from starting.
    own = {"HOME": str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "OLLAMA_NUM_PARALLEL": "many"}
    line = [sys.executable, "-m", "cli", "demo-cluster", *words]
    return subprocess.Popen(line, env=kept | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def daemons_of(folder: Path) -> list[psutil.Process]:
    """Every process that still has something to do with the demonstration's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("HOME", "") and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_an_answer_survives_the_node_that_gives_it(folder: Path) -> None:
    process = demonstrate(folder)
    said, complaints = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, complaints) == (0, ""), said + complaints
    assert " >>> ant is killed <<< " in said
    assert "the two answers are identical in all " in said
    assert "is back in the cluster after" in said
    assert list(folder.glob("ayni-demo-*")) == []
    assert daemons_of(folder) == []


def test_ctrl_c_leaves_nothing_behind(folder: Path) -> None:
    process = demonstrate(folder, "--nodes", "2")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("2."):
            break
    assert len(daemons_of(folder)) >= 3
    began_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # impatience must not cut the clearing away short
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert time.monotonic() - began_s < 40
    assert list(folder.glob("ayni-demo-*")) == []
    assert daemons_of(folder) == []


def test_what_does_not_work_is_told_and_cleared_away(folder: Path) -> None:
    process = demonstrate(folder, "--nodes", "2", "--keep-logs")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("2."):
            break
    for daemon in daemons_of(folder):
        if daemon.pid != process.pid and "serve" in daemon.cmdline():
            daemon.kill()
    said, complaints = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert complaints.startswith("Error: ")
    assert len(complaints.splitlines()) <= 2
    assert "The nodes' folders and logs: " in said
    assert list(folder.glob("ayni-demo-*/*/daemon.log"))
    assert daemons_of(folder) == []
