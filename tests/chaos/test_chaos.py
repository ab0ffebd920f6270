"""Three real nodes under load while twenty things go wrong; see `python -m tests.chaos` for more of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.ray_session import ray_versions
from tests.chaos.events import DEEDS, plan
from tests.chaos.places import best_network
from tests.chaos.scenario import any_seed, run

EVENTS = 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, as sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="ayni-chaos-") as made:
        yield Path(made)


@pytest.mark.timeout(600)
def test_no_answer_is_lost_and_nothing_is_left_whatever_dies(folder: Path) -> None:
    if not ray_versions().can_be_head:
        pytest.skip("Ray isn't installed, or can't form clusters on this system")
    seed = 1 if os.environ.get("CI") else any_seed()
    report = run(folder, best_network(), seed=seed, events=EVENTS, say=print)
    assert report.wrong == [], f"again: python -m tests.chaos --events {EVENTS} --seed {seed}"
    assert report.tally.identical == report.tally.requests > 0


def test_a_seed_always_gives_the_same_events_and_each_deed_has_its_turn() -> None:
    events = plan(7, 2 * len(DEEDS), DEEDS, machines=3)
    assert events == plan(7, 2 * len(DEEDS), DEEDS, machines=3)
    assert events != plan(8, 2 * len(DEEDS), DEEDS, machines=3)
    assert {event.deed for event in events[: len(DEEDS)]} == set(DEEDS)
    assert {event.machine for event in events} == {0, 1, 2}
