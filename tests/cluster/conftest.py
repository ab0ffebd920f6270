"""One real cluster of three daemons for the tests of this folder; each test leaves it whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.real_nodes import RealNode, await_all_up, form, real_nodes


@pytest.fixture(scope="session")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RealNode]]:
    with real_nodes(tmp_path_factory.mktemp("cluster")) as nodes:
        form(nodes)
        yield nodes


@pytest.fixture
def cluster(formed: list[RealNode]) -> list[RealNode]:
    """All three, up; a test that failed before may have left one down."""
    for node in formed:
        if node.process is None or node.process.poll() is not None:
            node.start()
    await_all_up(formed)
    return formed
