"""One cluster on a LAN of its own for the tests of this folder; each test leaves it whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from node.ray_session import ray_versions
from tests.cluster.real_nodes import await_all_up
from tests.lan.machines import LanCluster, LanNode, lan_cluster
from tests.support.netns import why_no_lan


@pytest.fixture(scope="session")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LanCluster, LanNode]]:
    if reason := why_no_lan():
        pytest.skip(reason)
    if not ray_versions().can_be_head:
        pytest.skip("Ray isn't installed")
    with lan_cluster(tmp_path_factory.mktemp("lan")) as made:
        yield made


@pytest.fixture
def cluster(formed: tuple[LanCluster, LanNode]) -> LanCluster:
    """All three up; a test that failed before may have left one down."""
    found, _ = formed
    for node in found.nodes:
        if node.process is None or node.process.poll() is not None:
            node.start()
    await_all_up(found.nodes)
    return found


@pytest.fixture
def stranger(formed: tuple[LanCluster, LanNode]) -> LanNode:
    """A machine that is in no cluster, and is not started."""
    return formed[1]
