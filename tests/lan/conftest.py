"""One cluster on a LAN of its own for the tests of this folder; each test leaves it whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from node.ray_session import ray_versions
from tests.lan.machines import LanNode, lan_cluster
from tests.support.netns import why_no_lan


@pytest.fixture(scope="session")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LanNode]]:
    if reason := why_no_lan():
        pytest.skip(reason)
    if not ray_versions().can_be_head:
        pytest.skip("Ray isn't installed")
    with lan_cluster(tmp_path_factory.mktemp("lan")) as nodes:
        yield nodes
