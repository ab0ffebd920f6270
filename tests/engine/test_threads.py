from __future__ import annotations

import os

import pytest

from node.engine.threads import available_cores, thread_count


def test_some_core_is_available() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("asked", "given"), [(None, available_cores()), (1, 1), (os.cpu_count() or 1, os.cpu_count() or 1)]
)
def test_a_wish_for_threads_is_granted(asked: int | None, given: int) -> None:
    assert thread_count(asked) == given


def test_no_request_gets_more_threads_than_there_are_processors() -> None:
    assert thread_count(10_000) == os.cpu_count()
