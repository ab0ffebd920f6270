"""Three nodes of a real Ray cluster, formed once for all tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from node.identity import ClusterRoot
from node.ray_session import ray_versions
from tests.support.ray_nodes import RayCluster, RayNode


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RayCluster]:
    """Generation 1, headed by the first node."""
    if not ray_versions().can_be_head:
        pytest.skip("Ray isn't installed, or can't form clusters on this system")
    root = ClusterRoot.create(now_s=time.time())
    nodes = [RayNode(root, number, tmp_path_factory.mktemp(f"node{number}")) for number in (11, 12, 13)]
    made = RayCluster(root, nodes)
    try:
        for node in nodes:
            node.start()
        await made.form(1, nodes[0])
        yield made
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))


@pytest.fixture
def stranger(cluster: RayCluster, tmp_path: Path) -> Callable[..., RayNode]:
    """Another machine that wants to join; of this cluster, or of another."""

    def make(*, of_this_cluster: bool) -> RayNode:
        root = cluster.root if of_this_cluster else ClusterRoot.create(now_s=time.time())
        return RayNode(root, 14 if of_this_cluster else 15, tmp_path / str(of_this_cluster))

    return make
