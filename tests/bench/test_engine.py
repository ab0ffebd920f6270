from __future__ import annotations

import pytest

from bench.engine import Step, decode_rate, parse_batched_bench, summarise


def test_only_the_time_when_all_jobs_ran_is_counted() -> None:
    steps = [
        Step(1.0, {"a": 1}),
        Step(2.0, {"a": 1, "b": 1}),  # b's first token: from here on both run
        Step(3.0, {"a": 1, "b": 1}),
        Step(5.0, {"a": 1, "b": 1}, finished=True),
        Step(6.0, {"b": 1}, finished=True),
    ]
    assert decode_rate(steps, 2) == pytest.approx(4 / 3)


def test_jobs_that_never_ran_together_have_no_rate() -> None:
    with pytest.raises(ValueError, match="never ran together"):
        decode_rate([Step(1.0, {"a": 1}), Step(2.0, {"a": 1}, finished=True)], 2)


def test_the_rate_is_found_among_the_other_lines_of_the_peer() -> None:
    output = 'load: done\n{"n_kv_max": 64, "pl": 4, "speed_pp": 9.5, "speed_tg": 42.25}\nperf: 1 ms\n'
    assert parse_batched_bench(output) == 42.25
    with pytest.raises(ValueError, match="got 0"):
        parse_batched_bench("nothing\n")


def test_each_level_is_compared_by_medians() -> None:
    rows = summarise("m", {1: [9.0, 10.0, 50.0], 4: [30.0]}, {1: [10.0, 10.0, 1.0], 4: [40.0]})
    assert [(row.measure, row.ratio, row.met) for row in rows] == [
        ("decode, 1 at once", 1.0, True),
        ("decode, 4 at once", 0.75, False),
    ]
