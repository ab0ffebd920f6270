from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.limits import Allowed, Limited, Limits, LimitTable
from node.report import MAX_TOKEN_USES, TokenUse
from tests.support.clusters import node_id

B, C = node_id("b"), node_id("c")


def admitted(table: LimitTable, limits: Limits, now_s: float, *, tries: int, tokens: int = 0) -> int:
    count = 0
    for _ in range(tries):
        if isinstance(table.admit("t", limits, now_s, prompt_tokens=tokens), Allowed):
            table.release("t", now_s)
            count += 1
    return count


def test_a_token_without_limits_is_never_refused() -> None:
    assert admitted(LimitTable(), Limits(), 0.0, tries=1000, tokens=10**6) == 1000


def test_requests_a_minute() -> None:
    table, limits = LimitTable(), Limits(requests_per_minute=6)
    assert admitted(table, limits, 0.0, tries=20) == 6
    assert table.admit("t", limits, 0.0) == Limited("requests_per_minute", 6, 10)
    assert admitted(table, limits, 10.0, tries=20) == 1
    assert admitted(table, limits, 600.0, tries=20) == 6


def test_tokens_a_minute_count_what_was_generated() -> None:
    table, limits = LimitTable(), Limits(tokens_per_minute=600)
    assert table.admit("t", limits, 0.0, prompt_tokens=100) == Allowed(None, 500)
    table.spend("t", 800, 0.0)
    assert table.admit("t", limits, 0.0, prompt_tokens=100) == Limited("tokens_per_minute", 600, 40)
    assert isinstance(table.admit("t", limits, 40.0, prompt_tokens=100), Allowed)


def test_a_prompt_longer_than_a_minutes_worth_is_possible_once_the_bucket_is_full() -> None:
    table, limits = LimitTable(), Limits(tokens_per_minute=60)
    assert isinstance(table.admit("t", limits, 0.0, prompt_tokens=100), Allowed)
    assert table.admit("t", limits, 60.0, prompt_tokens=100) == Limited("tokens_per_minute", 60, 40)
    assert isinstance(table.admit("t", limits, 100.0, prompt_tokens=100), Allowed)


def test_parallel_requests_are_given_back_at_their_end() -> None:
    table, limits = LimitTable(), Limits(max_parallel=2)
    assert [type(table.admit("t", limits, 0.0)) for _ in range(3)] == [Allowed, Allowed, Limited]
    table.release("t", 1.0)
    assert isinstance(table.admit("t", limits, 1.0), Allowed)


def test_a_refused_request_uses_nothing() -> None:
    table = LimitTable()
    limits = Limits(requests_per_minute=10, max_parallel=1)
    table.admit("t", limits, 0.0)
    for _ in range(5):
        assert isinstance(table.admit("t", limits, 0.0), Limited)
    assert table.report(0.0) == {"t": TokenUse(1, 0, 1)}


def test_limits_hold_over_all_nodes_once_they_have_talked() -> None:
    here, there, limits = LimitTable(), LimitTable(), Limits(requests_per_minute=10, tokens_per_minute=1000)
    assert admitted(there, limits, 0.0, tries=7, tokens=100) == 7
    here.heard(B, there.report(0.0), 0.0)
    assert admitted(here, limits, 0.0, tries=20, tokens=100) == 3
    there.heard(C, here.report(0.0), 0.0)
    assert admitted(there, limits, 0.0, tries=20, tokens=100) == 0


def test_the_same_report_twice_counts_once() -> None:
    table, limits = LimitTable(), Limits(requests_per_minute=10)
    table.admit("t", limits, 0.0)
    for _ in range(3):
        table.heard(B, {"t": TokenUse(4, 0, 0)}, 0.0)
    assert admitted(table, limits, 0.0, tries=20) == 5


def test_a_restarted_nodes_counts_begin_anew() -> None:
    table, limits = LimitTable(), Limits(requests_per_minute=10)
    table.admit("t", limits, 0.0)
    table.heard(B, {"t": TokenUse(4, 0, 0)}, 0.0)
    table.heard(B, {"t": TokenUse(2, 0, 0)}, 0.0)
    assert admitted(table, limits, 0.0, tries=20) == 3


def test_what_was_used_long_ago_elsewhere_does_not_lock_a_token_out() -> None:
    table, limits = LimitTable(), Limits(requests_per_minute=60)
    table.heard(B, {"t": TokenUse(100_000, 0, 0)}, 0.0)
    assert isinstance(table.admit("t", limits, 0.0), Limited)
    assert isinstance(table.admit("t", limits, 1.0), Allowed)


def test_requests_elsewhere_count_as_parallel_until_they_end_or_the_node_does() -> None:
    table, limits = LimitTable(), Limits(max_parallel=2)
    table.heard(B, {"t": TokenUse(2, 0, 2)}, 0.0)
    assert isinstance(table.admit("t", limits, 0.0), Limited)
    table.forget_node(B)
    assert isinstance(table.admit("t", limits, 0.0), Allowed)
    table.heard(C, {"t": TokenUse(1, 0, 1)}, 0.0)
    assert isinstance(table.admit("t", limits, 0.0), Limited)
    table.heard(C, {}, 0.0)
    assert isinstance(table.admit("t", limits, 0.0), Allowed)


def test_a_report_is_bounded_and_leaves_out_what_was_not_used_lately() -> None:
    table = LimitTable()
    table.admit("old", Limits(), 0.0)
    table.release("old", 0.0)
    for number in range(MAX_TOKEN_USES + 10):
        table.admit(f"t{number}", Limits(), 1000.0)
    report = table.report(1000.0)
    assert len(report) == MAX_TOKEN_USES
    assert "old" not in report
    assert f"t{MAX_TOKEN_USES + 9}" in report


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 50)), max_size=60), st.integers(1, 30))
def test_no_minute_sees_more_than_twice_its_worth(steps: list[tuple[float, int]], per_minute: int) -> None:
    table, limits, now = LimitTable(), Limits(requests_per_minute=per_minute), 0.0
    seen: list[float] = []
    for pause, tries in steps:
        now += pause
        seen += [now] * admitted(table, limits, now, tries=tries)
    for start in seen:
        assert sum(1 for at in seen if start <= at < start + 60) <= 2 * per_minute
