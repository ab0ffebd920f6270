from __future__ import annotations

import random

import pytest

from bench.routing import rows_for
from bench.simulate import Simulation, expected_time, least_loaded, round_robin
from bench.simulated_flood import flood_rows
from bench.simulated_load import LONGEST_CONVERSATION, conversations, models, separated
from bench.simulated_node import KINDS


def test_a_trace_is_the_same_every_time_and_fits_the_context() -> None:
    one, other = (conversations(models(), per_s=1.0, seconds=60.0, entries=4, seed=3) for _ in range(2))
    assert one == other
    turns = [turn for conversation in one for turn in conversation.turns]
    assert all(turn.prompt_tokens + turn.output_tokens <= LONGEST_CONVERSATION for turn in turns)
    assert len(separated(one, 3)) == len(turns)


def test_later_turns_begin_with_what_the_earlier_ones_left() -> None:
    for conversation in conversations(models(), per_s=1.0, seconds=60.0, entries=4, seed=3):
        for earlier, later in zip(conversation.turns, conversation.turns[1:], strict=False):
            assert later.marks[: len(earlier.marks)] == earlier.marks
            assert later.mark_tokens[-1] == earlier.prompt_tokens + earlier.output_tokens


@pytest.mark.parametrize("name", ["expected time", "least-loaded", "round-robin"])
def test_every_request_is_answered_and_the_same_seed_gives_the_same_times(name: str) -> None:
    asked = conversations(models(), per_s=0.3, seconds=135.0, entries=32, seed=5)

    def run() -> list[float]:
        chance = random.Random(1)
        choose = {
            "expected time": expected_time,
            "least-loaded": least_loaded(chance),
            "round-robin": round_robin(chance),
        }[name]
        outcome = Simulation(asked, KINDS, choose).run()
        assert outcome.refused == 0
        return outcome.first_s

    times = run()
    assert times == run()
    assert min(times) > 0


def test_a_flood_does_not_take_the_others_share() -> None:
    assert flood_rows(seed=7)[0].met


def test_routing_is_measured_for_each_kind_of_request() -> None:
    measures = [row.measure for row in rows_for(16, 60, 1e9, 1)]
    assert any("loaded on" in measure for measure in measures)
    assert any("to be loaded" in measure for measure in measures)
