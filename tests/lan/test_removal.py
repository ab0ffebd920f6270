"""Members are removed, or leave: Ray, which knows no revocations, must not let them in any more."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.asking import only_loaded_on
from tests.cluster.real_nodes import ROOT, await_all_up, until
from tests.cluster.streams import Stream
from tests.lan.machines import LanCluster, LanNode, no_model_unloaded

pytestmark = pytest.mark.timeout(240)


def intrude(machine: LanNode, copied: Path, head: LanNode) -> str:
    """How the Ray cluster of this head answers to whoever has a copy of a member's files; "up": it lets them in."""
    words = psutil.Process(head.ray_processes()["gcs_server"]).cmdline()
    [port] = [found[1] for word in words if (found := re.fullmatch(r"--gcs_server_port=(\d+)", word))]
    command = machine.machine.command([sys.executable, "-m", "tests.lan.intruder", str(copied), head.host, port])
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def token(node: LanNode) -> str:
    return (node.home / ".ayni" / "cluster" / "ray" / "token").read_text()


def come_back(nodes: list[LanNode], cluster: LanCluster, by: LanNode) -> None:
    """Join again, by invitation."""
    for node in nodes:
        until(lambda node=node: not node.ask("GET", "/api/cluster")["member"], what="parting")
        assert not list((node.home / ".ayni" / "cluster").iterdir())
        line = by.ask("POST", "/api/cluster/invitations", {})["invitation"]
        node.ask("POST", "/api/cluster/join", {"invitation": line})
    await_all_up(cluster.nodes)


def test_a_removed_member_is_shut_out_of_ray_while_models_and_answers_stay(cluster: LanCluster, tmp_path: Path) -> None:
    head, (remover, removed) = cluster.head, cluster.workers
    only_loaded_on(head, cluster.nodes)
    cluster.await_placement()
    copied = tmp_path / "copied"
    shutil.copytree(removed.home / ".ayni" / "cluster", copied)
    # Once let in, it and the machine whose files it has take the agent's name from each other.
    assert intrude(removed, copied, head).startswith(("up", "`place_agent` failed"))
    with no_model_unloaded([head]):
        answer = Stream(remover).await_text()
        remover.ask("DELETE", f"/api/cluster/nodes/{removed.name}")
        cluster.await_next_generation([head, remover])
        answer.whole()
    assert answer.resumed == 0
    assert token(head) == token(remover) != (copied / "ray" / "token").read_text()
    assert intrude(removed, copied, cluster.head) == (
        "`ray start` failed: the head does not accept the token of this generation"
    )
    come_back([removed], cluster, by=remover)
    cluster.await_placement()


def test_a_head_that_removes_a_member_goes_on_and_when_it_leaves_the_last_one_is_alone(cluster: LanCluster) -> None:
    head, (last, removed) = cluster.head, cluster.workers
    before = token(head)
    head.ask("DELETE", f"/api/cluster/nodes/{removed.name}")
    cluster.await_next_generation([head, last])
    assert before != token(head) == token(last)
    cluster.head.ask("DELETE", "/api/cluster")
    [left] = [node for node in (head, last) if node is not cluster.head]
    until(lambda: left.ray_status()["state"] == "off" and not left.ray_processes(), what="the end of its Ray session")
    come_back([node for node in cluster.nodes if node is not left], cluster, by=left)
    cluster.await_next_generation(cluster.nodes)


def test_a_head_that_is_removed_heads_nobody_any_more(cluster: LanCluster) -> None:
    removed, others = cluster.head, cluster.workers
    before, stale = token(removed), others[0].ray_processes()
    others[0].ask("DELETE", f"/api/cluster/nodes/{removed.name}")
    cluster.await_next_generation(others)
    assert cluster.head is not removed
    assert before != token(others[0]) == token(others[1])
    assert not set(stale.values()) & set(others[0].ray_processes().values())
    come_back([removed], cluster, by=others[1])
    cluster.await_placement()
