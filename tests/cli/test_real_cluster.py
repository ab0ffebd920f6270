"""The commands of a cluster against real nodes: from the first one, which starts a node, to leaving."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.daemon_file import is_running, read_daemon_record
from tests.cli.scripted_node import Command, environment

LAN_HOSTS = {"kitchen": "127.0.0.31", "attic": "127.0.0.32"}


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Command, Command]]:
    """Two people's machines, on which nothing runs yet."""
    commands = []
    for name, host in LAN_HOSTS.items():
        home = tmp_path_factory.mktemp(name)
        own = {
            "AYNI_HOST": f"127.0.0.1:{free_port('127.0.0.1')}",
            "AYNI_NODE_NAME": name,
            "AYNI_LAN_HOST": host,
            "AYNI_LAN_PORT": str(free_port(host)),
            "AYNI_DISCOVERY": "off",
            "AYNI_RAY": "off",
        }
        commands.append(Command(home, environment(home) | own))
    yield commands[0], commands[1]
    for command in commands:
        port = int(command.environ["AYNI_HOST"].rpartition(":")[2])
        record = read_daemon_record(command.home / ".ayni", port)
        if record is not None and is_running(record):
            os.kill(record.pid, signal.SIGKILL)


def states(command: Command) -> dict[str, str]:
    rows = [line.split() for line in command("nodes").stdout.splitlines()[1:]]
    return {row[0]: row[1] for row in rows}


def await_states(command: Command, wanted: dict[str, str]) -> None:
    deadline = time.monotonic() + 20
    while (seen := states(command)) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    assert seen == wanted


def test_three_commands_make_a_cluster(machines: tuple[Command, Command]) -> None:
    kitchen, attic = machines
    made = kitchen("cluster", "create", "home")
    assert (made.returncode, made.stdout) == (0, "created cluster 'home'\n"), made.stderr
    assert made.stderr.startswith("Starting a node in the background")
    invited = kitchen("cluster", "invite")
    assert invited.returncode == 0
    assert len(invited.stdout.splitlines()) == 1
    joined = attic("join", "-", stdin=invited.stdout.encode())
    assert (joined.returncode, joined.stdout) == (0, "joined cluster 'home'\n"), joined.stderr
    for command in machines:
        await_states(command, {"kitchen": "up", "attic": "up"})
    again = attic("join", "-", stdin=invited.stdout.encode())
    assert (again.returncode, again.stdout) == (1, "")
    assert "belongs to cluster 'home' already" in again.stderr


def test_each_machine_says_what_it_is_part_of(machines: tuple[Command, Command]) -> None:
    kitchen, attic = machines
    shown = attic("cluster", "status").stdout
    assert shown.startswith("cluster         home (")
    assert "this machine    attic (" in shown
    assert "machines        2 of 2 up" in shown
    assert f"clients         https://127.0.0.32:{attic.environ['AYNI_LAN_PORT']}" in shown
    assert kitchen("discover").returncode == 0


def test_a_model_in_memory_is_listed_with_its_machine(machines: tuple[Command, Command]) -> None:
    kitchen, attic = machines
    assert kitchen("run", "demo", "Count from 1 to 5").stdout.count("1, 2, 3, 4, 5")
    header, line = attic("ps").stdout.splitlines()
    assert header.split()[-1] == "NODE"
    assert line.split()[-1] in ("kitchen", "attic")
    explained = attic("explain", "demo", "--prompt-tokens", "100")
    assert explained.returncode == 0
    assert " wins: " in explained.stdout


def test_a_token_is_made_listed_and_revoked(machines: tuple[Command, Command]) -> None:
    kitchen, _ = machines
    made = kitchen("token", "create", "anna", "--models", "demo", "--rpm", "60", "--expires", "2d")
    assert (made.returncode, made.stdout.count(".")) == (0, 2)
    assert "OPENAI_BASE_URL=https://127.0.0.31:" in made.stderr
    listed = kitchen("token", "list").stdout
    assert "60 requests/min" in listed
    assert "from now" in listed
    assert made.stdout.strip() not in listed
    assert kitchen("token", "revoke", "anna").returncode == 0
    assert kitchen("token", "list").stdout.splitlines()[1].endswith("revoked")


OLLAMA = "import ollama; print(ollama.generate('demo', 'Count from 1 to 5', think=False).response)"
OPENAI = (
    "import openai; print(openai.OpenAI().chat.completions.create(model='demo',"
    " messages=[{'role': 'user', 'content': 'Count from 1 to 5'}]).choices[0].message.content)"
)


@pytest.mark.parametrize("program", [OLLAMA, OPENAI], ids=["ollama", "openai"])
def test_the_settings_that_come_with_a_token_are_all_a_client_needs(
    machines: tuple[Command, Command], program: str
) -> None:
    kitchen, attic = machines
    made = kitchen("token", "create", "client")
    token = made.stdout.strip()
    told = dict(word.split("=", 1) for word in made.stderr.replace("<token>", token).split() if "=" in word)
    certificate = {"SSL_CERT_FILE": str(attic.home / ".ayni/cluster/identity/ca.pem")}
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, env=os.environ | told | certificate, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout[:10]) == (0, "1, 2, 3, 4"), done.stderr
    assert subprocess.run(line, env=os.environ | told, capture_output=True, timeout=60).returncode == 1
    assert kitchen("token", "revoke", "client").returncode == 0
    revoked = subprocess.run(line, env=os.environ | told | certificate, capture_output=True, text=True, timeout=60)
    assert (revoked.returncode, "revoked" in revoked.stderr) == (1, True), revoked.stderr[-500:]


def test_another_user_of_the_machine_may_look_but_not_change(machines: tuple[Command, Command], tmp_path: Path) -> None:
    kitchen, _ = machines
    other = Command(tmp_path, kitchen.environ | {"HOME": str(tmp_path)})
    await_states(other, {"kitchen": "up", "attic": "up"})
    for words in (("cluster", "invite"), ("token", "create", "eve", "--scope", "admin"), ("token", "list")):
        refused = other(*words)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "only the user whose node this is may do that" in refused.stderr
        port = kitchen.environ["AYNI_HOST"].rpartition(":")[2]
        assert f"daemon-{port}.json" in refused.stderr


def test_a_token_of_scope_admin_manages_the_cluster_from_a_machine_that_is_none_of_it(
    machines: tuple[Command, Command], tmp_path: Path
) -> None:
    kitchen, attic = machines
    elsewhere = {
        "HOME": str(tmp_path),
        "AYNI_HOST": f"https://127.0.0.32:{attic.environ['AYNI_LAN_PORT']}",
        "SSL_CERT_FILE": str(attic.home / ".ayni/cluster/identity/ca.pem"),
        "OLLAMA_API_KEY": kitchen("token", "create", "remote", "--scope", "admin").stdout.strip(),
    }
    remote = Command(tmp_path, kitchen.environ | elsewhere)
    wary = Command(tmp_path, kitchen.environ | elsewhere | {"SSL_CERT_FILE": ""})("nodes")
    assert "its certificate is not trusted: " in wary.stderr
    assert wary.stderr.endswith(f"{elsewhere['AYNI_HOST']}/ca.pem, by naming its file in SSL_CERT_FILE\n")
    await_states(remote, {"kitchen": "up", "attic": "up"})
    assert remote("cluster", "invite").stdout.startswith("ayni-join-")
    assert remote("run", "demo", "Count from 1 to 5").stdout.count("1, 2, 3, 4, 5")
    assert kitchen("token", "revoke", "remote").returncode == 0
    assert remote("cluster", "invite").returncode == 1


def test_work_is_kept_off_a_machine_and_a_model_in_memory(machines: tuple[Command, Command]) -> None:
    kitchen, _ = machines
    assert kitchen("drain", "attic").returncode == 0
    await_states(kitchen, {"kitchen": "up", "attic": "draining"})
    assert kitchen("drain", "--undo", "attic").returncode == 0
    await_states(kitchen, {"kitchen": "up", "attic": "up"})
    pinned = kitchen("pin", "demo", "--nodes", "attic")
    assert (pinned.returncode, pinned.stdout) == (0, "pinned 'demo' on attic\n"), pinned.stderr
    assert kitchen("pin", "demo", "--remove").returncode == 0
    assert kitchen("drain", "cellar").stderr.startswith("Error: no such ")


def test_a_cluster_can_be_renamed_and_left(machines: tuple[Command, Command]) -> None:
    kitchen, attic = machines
    assert kitchen("cluster", "rename", "house").returncode == 0
    assert kitchen("cluster", "status").stdout.startswith("cluster         house (")
    assert attic("cluster", "leave").stdout.startswith("left the cluster")
    assert attic("cluster", "status").returncode == 1
    await_states(kitchen, {"kitchen": "up"})
    assert attic("run", "demo", "Count from 1 to 5").stdout.count("1, 2, 3, 4, 5")
    assert kitchen("shutdown").returncode == 0
    assert attic("shutdown").returncode == 0
