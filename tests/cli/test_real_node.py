"""The command against a real node, from the first `run`, which starts it, to `shutdown`."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from node.daemon_file import DaemonRecord, is_running, read_daemon_record
from tests.cli.scripted_node import Command, environment
from tests.support.tiny_gguf import write_tiny_llama

MODELFILE = (
    "FROM ./tiny.gguf\nPARAMETER temperature 0\nPARAMETER num_predict 8\nPARAMETER num_ctx 256\nSYSTEM Be kind.\n"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def record_of(home: Path, port: int) -> DaemonRecord | None:
    return read_daemon_record(home / ".ayni", port)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A home with the model "tiny", at a node that the first command has started."""
    home = tmp_path_factory.mktemp("home")
    port = free_port()
    command = Command(home, environment(home) | {"AYNI_HOST": f"127.0.0.1:{port}", "AYNI_CONTEXT_LENGTH": "256"})
    write_tiny_llama(home / "tiny.gguf")
    (home / "Modelfile").write_text(MODELFILE)
    started = command("run", "absent", "hi")
    assert started.returncode == 1
    assert started.stderr.splitlines()[0] == (
        f"Starting a node in the background (its log: {home}/.ayni/logs/daemon-{port}.log; stop it with: ayni shutdown)"
    )
    assert started.stderr.splitlines()[1] == "Error: model 'absent' not found"
    assert command("create", "tiny", "-f", str(home / "Modelfile")).returncode == 0
    yield command
    if (record := record_of(home, port)) and is_running(record):
        os.kill(record.pid, signal.SIGKILL)


def first_column(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines()]


def test_other_users_can_look_at_nothing_that_was_made(real: Command) -> None:
    assert stat.S_IMODE((real.home / ".ayni").stat().st_mode) == 0o700


def test_a_created_model_is_listed_and_described(real: Command) -> None:
    listed = real("list")
    assert listed.stderr == ""
    assert "tiny:latest" in first_column(listed.stdout)
    described = real("show", "tiny").stdout
    for part in ("architecture", "  Capabilities\n    completion\n", "temperature    0\n", "  System\n    Be kind.\n"):
        assert part in described
    modelfile = real("show", "tiny", "--modelfile").stdout
    assert "PARAMETER num_predict 8" in modelfile
    assert "FROM /" in modelfile


def test_run_answers_and_leaves_the_model_in_memory_until_it_is_stopped(real: Command) -> None:
    answered = real("run", "tiny", "Hello", "--verbose", "--keepalive", "10m")
    assert answered.returncode == 0
    assert answered.stdout.endswith("\n\n")
    assert "\neval count:           8 token(s)\n" in answered.stderr
    running = real("ps").stdout.splitlines()
    assert running[0].split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert running[1].startswith("tiny:latest ")
    assert running[1].endswith("100% CPU     256        9 minutes from now")
    assert real("stop", "tiny").returncode == 0
    assert "tiny:latest" not in first_column(real("ps").stdout)


def test_an_answer_fits_the_schema_that_it_was_asked_for(real: Command) -> None:
    assert real("run", "tiny", "Hello", "--format", '{"const": "yes"}').stdout == '"yes"\n\n'


def test_a_conversation_is_saved_as_a_model(real: Command) -> None:
    child = pexpect.spawn(sys.executable, ["-m", "cli", "run", "tiny"], env=real.environ, encoding="utf-8", timeout=30)
    child.expect("Send a message")
    child.sendline("/set parameter seed 7")
    child.expect_exact("Set parameter 'seed' to '7'")
    child.sendline("Hello")
    child.expect("Send a message")
    child.sendline("/save kept")
    child.expect_exact("Created new model 'kept'")
    child.sendline("/bye")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    saved = real("show", "kept", "--modelfile").stdout
    assert "PARAMETER seed 7" in saved
    assert "MESSAGE user Hello" in saved


def test_a_copy_can_be_removed(real: Command) -> None:
    assert real("cp", "tiny", "second").stdout == "copied 'tiny' to 'second'\n"
    assert real("rm", "second").stdout == "deleted 'second'\n"
    assert "second:latest" not in first_column(real("list").stdout)
    assert real("rm", "second").stderr == "Error: model 'second' not found\n"


def test_the_store_is_sound(real: Command) -> None:
    done = real("verify")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_node_at_the_same_address_says_so(real: Command) -> None:
    done = real("serve")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: a node is already running on ")
    assert len(done.stderr.splitlines()) == 1


def test_the_node_outlives_the_terminal_and_ends_with_shutdown(real: Command) -> None:
    port = int(real.environ["AYNI_HOST"].rpartition(":")[2])
    record = record_of(real.home, port)
    assert record is not None
    assert os.getsid(record.pid) == record.pid
    assert real("shutdown").stdout == f"stopped the node at 127.0.0.1:{port}\n"
    assert not is_running(record)
    assert record_of(real.home, port) is None
    assert real("shutdown").stderr == f"Error: no node is running at http://127.0.0.1:{port}\n"


def test_two_first_commands_at_once_share_one_node(real: Command) -> None:
    line = [sys.executable, "-m", "cli", "run", "tiny", "Hello"]
    both = [
        subprocess.Popen(line, env=real.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert real("shutdown").returncode == 0
