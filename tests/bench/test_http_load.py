from __future__ import annotations

import pytest

from bench.client import Trace
from bench.http_load import Plan, Samples, common_gaps, summarise, throughput


def test_throughput_spans_from_the_first_request_to_the_last_token() -> None:
    traces = [
        Trace(1.0, [2.0, 3.0], output_tokens=10),
        Trace(0.5, [4.0, 5.5], output_tokens=20),
    ]
    assert throughput(traces) == 6.0


def test_gaps_count_only_while_every_stream_runs() -> None:
    early = Trace(0.0, [1.0, 2.0, 4.0, 7.0])
    late = Trace(0.0, [2.0, 5.0])
    assert list(common_gaps([early, late])) == [2.0, 3.0]


def test_the_summary_judges_each_goal_by_its_own_figure() -> None:
    ours = Samples([80.0], [0.104], [[0.5, 0.7]], [[0.1] * 99 + [0.2]])
    theirs = Samples([100.0], [0.1], [[1.0, 1.0]], [[0.1] * 99 + [0.4]])
    rows = summarise("m", Plan(), ours, theirs)
    assert [row.met for row in rows] == [False, True, True, True]
    assert [row.figure for row in rows[:3]] == pytest.approx([0.8, 4.0, 0.6])
