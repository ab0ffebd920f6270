from __future__ import annotations

import json

import pytest

from bench.report import Goal, Row, paired_ratio, spread, table, to_json


def row(ayni: float, peer: float | None, goal: Goal | None) -> Row:
    return Row("b", "m", "speed", "ms", ayni, peer, "peer" if peer else "", goal)


@pytest.mark.parametrize(
    ("measured", "figure", "met"),
    [
        (row(98.0, 100.0, Goal("ratio", ">=", 0.97)), 0.98, True),
        (row(96.0, 100.0, Goal("ratio", ">=", 0.97)), 0.96, False),
        (row(104.0, 100.0, Goal("difference", "<=", 5.0)), 4.0, True),
        (row(106.0, 100.0, Goal("difference", "<=", 5.0)), 6.0, False),
        (row(0.5, None, Goal("value", "<=", 0.4)), 0.5, False),
        (row(50.0, 100.0, None), 0.5, None),
        (row(50.0, None, None), None, None),
    ],
)
def test_a_goal_bounds_value_ratio_or_difference(measured: Row, figure: float | None, met: bool | None) -> None:
    assert (measured.figure, measured.met) == (figure, met)


def test_the_ratio_of_turns_survives_a_machine_that_slows_down_for_a_while() -> None:
    ours, theirs = [98.0, 49.0, 98.0, 30.0], [100.0, 50.0, 100.0, 100.0]
    assert paired_ratio(ours, theirs) == pytest.approx(0.98)
    turns = Row("b", "m", "speed", "ms", 73.5, 100.0, "peer", Goal("ratio", ">=", 0.97), paired=0.98)
    assert (turns.ratio, turns.met) == (0.98, True)


def test_spread_is_half_the_range_relative_to_the_middle() -> None:
    assert spread([90.0, 100.0, 110.0], 100.0) == pytest.approx(0.1)


def test_the_table_lines_up_and_says_what_was_missed() -> None:
    rows = [row(96.0, 100.0, Goal("ratio", ">=", 0.97)), row(0.25, None, Goal("value", "<=", 0.4))]
    text = table(rows)
    assert len({len(line) for line in text.splitlines()}) == 1
    assert [cell.strip() for cell in text.splitlines()[2].split("|")[1:-1]] == [
        "m", "speed", "96 ms", "100 ms (peer)", "0.960", "ratio >= 0.97", "missed",
    ]  # fmt: skip


def test_json_keeps_rows_verdicts_and_single_samples() -> None:
    read = json.loads(to_json([row(1.0, 2.0, Goal("ratio", "<=", 0.7))], {"cores": 2}, {"x": {1: [1.0]}}))
    assert read["machine"] == {"cores": 2}
    assert read["samples"] == {"x": {"1": [1.0]}}
    assert (read["rows"][0]["ratio"], read["rows"][0]["met"]) == (0.5, True)
