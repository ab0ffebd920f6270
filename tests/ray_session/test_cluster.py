"""A real Ray cluster of three nodes loses one part after another; the tests build on each other, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from node.ray_session import leftover
from tests.support.ray_nodes import LIMIT_S, RayCluster, RayNode, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

AGENT, COORDINATOR = "ray::NodeAgent", "ray::Coordinator"


async def kill(node: RayNode, process: str) -> None:
    os.kill((await node.processes())[process], signal.SIGKILL)


async def answered_in_the_end(node: RayNode) -> bool:
    """As `is_answered`; what is asked while a coordinator begins may be lost with the call that carries it."""
    for _ in range(4):
        with contextlib.suppress(TimeoutError):
            return await node.is_answered()
    return False


def starts(cluster: RayCluster) -> list[int]:
    return [node.control.status.starts for node in cluster.nodes]


async def test_three_nodes_form_a_cluster_and_each_is_answered(cluster: RayCluster) -> None:
    assert [await node.is_answered() for node in cluster.nodes] == [True, True, True]
    assert [node.control.status.role for node in cluster.nodes] == ["head", "worker", "worker"]


async def test_no_more_processes_run_than_are_needed(cluster: RayCluster) -> None:
    head, worker, _ = [await node.processes() for node in cluster.nodes]
    needed = {"raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent", AGENT}
    assert set(worker) == needed
    assert set(head) == needed | {"gcs_server", COORDINATOR}


async def test_the_token_stands_in_no_command_line_and_in_no_environment(cluster: RayCluster) -> None:
    assert cluster.formation is not None
    for node in cluster.nodes:
        for pid in (await node.processes()).values():
            process = psutil.Process(pid)
            assert cluster.formation.token not in str(process.cmdline())
            assert cluster.formation.token not in str(process.environ())


async def test_no_other_user_can_reach_a_socket_or_file_of_a_session(cluster: RayCluster) -> None:
    for node in cluster.nodes:
        folder = node.control._keeper.session.plan.folder  # type: ignore[union-attr]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        processes = [psutil.Process(pid) for pid in (await node.processes()).values()]
        bound = {Path(each.laddr) for process in processes for each in process.net_connections("unix") if each.laddr}
        assert len(bound) > 1
        assert not [path for path in bound if not path.is_relative_to(folder)]


async def test_a_killed_agent_is_back(cluster: RayCluster) -> None:
    await kill(cluster.nodes[1], AGENT)
    await until(lambda: not cluster.nodes[1].is_heard)
    await cluster.until_whole(1)
    assert await cluster.nodes[1].is_answered()
    assert starts(cluster) == [1, 1, 1]


async def test_a_killed_coordinator_is_back_and_hears_everybody(cluster: RayCluster) -> None:
    killed = (await cluster.nodes[0].processes())[COORDINATOR]
    await kill(cluster.nodes[0], COORDINATOR)
    async with asyncio.timeout(LIMIT_S):
        while (await cluster.nodes[0].processes()).get(COORDINATOR) in (None, killed):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert [await answered_in_the_end(node) for node in cluster.nodes] == [True, True, True]
    await cluster.until_whole(1)
    assert starts(cluster) == [1, 1, 1]


async def test_a_node_whose_raylet_died_joins_again_by_itself(cluster: RayCluster) -> None:
    await kill(cluster.nodes[2], "raylet")
    await until(lambda: not cluster.nodes[2].is_heard)
    await cluster.until_whole(1)
    assert await cluster.nodes[2].is_answered()
    assert starts(cluster) == [1, 1, 2]


async def test_a_head_whose_control_store_died_comes_back_and_the_others_stay(cluster: RayCluster) -> None:
    await kill(cluster.nodes[0], "gcs_server")
    await until(lambda: not cluster.nodes[0].is_heard)
    await cluster.until_whole(1)
    assert [await node.is_answered() for node in cluster.nodes] == [True, True, True]
    assert starts(cluster) == [2, 1, 2]


async def test_who_has_the_wrong_token_or_another_authority_is_refused_within_seconds(
    cluster: RayCluster, stranger: Callable[..., RayNode]
) -> None:
    assert cluster.formation is not None
    member, foreigner = stranger(of_this_cluster=True), stranger(of_this_cluster=False)
    try:
        for node, formation in ((member, replace(cluster.formation, token="0" * 64)), (foreigner, cluster.formation)):
            node.start()
            node.control.follow(formation)
        await until(lambda: bool(member.control.status.reason) and bool(foreigner.control.status.reason), 30)
        refusal = "`ray start` failed: the head does not accept the token of this generation"
        assert member.control.status.reason == refusal
        assert foreigner.control.status.reason == "`ray start` failed: the head's certificate was not accepted"
    finally:
        await asyncio.gather(member.stop(), foreigner.stop())
    assert [await node.is_answered() for node in cluster.nodes] == [True, True, True]


async def test_without_the_heads_machine_the_others_form_the_next_generation(cluster: RayCluster) -> None:
    first, *others = cluster.nodes
    await first.stop()
    cluster.nodes, cluster.away = others, [first]
    await cluster.form(2, others[0])
    assert [await node.is_answered() for node in cluster.nodes] == [True, True]
    assert others[0].control.status.role == "head"


async def test_the_former_head_returns_as_a_worker_of_the_new_generation(cluster: RayCluster) -> None:
    first = cluster.away.pop()
    first.start()
    cluster.nodes.append(first)
    first.control.follow(cluster.formation)
    await cluster.until_whole(2)
    assert await first.is_answered()
    assert first.control.status.role == "worker"


async def test_a_daemon_that_is_killed_leaves_a_session_that_its_successor_ends(cluster: RayCluster) -> None:
    node = cluster.nodes[-1]
    left = await node.processes()
    assert await asyncio.to_thread(leftover.sweep, node.settings.state)
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in left.values())
    await until(lambda: not node.is_heard)
    await cluster.until_whole(2)


async def test_nothing_is_left_when_all_have_stopped(cluster: RayCluster) -> None:
    pids = [pid for node in cluster.nodes for pid in (await node.processes()).values()]
    folders = [node.control._keeper.session.plan.folder for node in cluster.nodes]  # type: ignore[union-attr]
    await asyncio.gather(*(node.stop() for node in cluster.nodes))
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    assert not [folder for folder in folders if exists(folder)]


def exists(folder: Path) -> bool:
    return folder.exists()
