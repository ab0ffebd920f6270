from __future__ import annotations

import pytest

from coordinator.trail import FULL_LIMIT_S, MOST_LOSSES, SECOND_CHANCE_S, Trail
from node.errors import Closing, DevicesUnknown, DoesNotFit, JobFailed, NodeError, QueueFull, RunnerLost
from node.jobs import Failed
from node.peers import ModelNotThere, PeerLost, PeerUnreachable
from tests.support.clusters import node_id

A, B, C = node_id("a"), node_id("b"), node_id("c")


def trail() -> Trail:
    return Trail(wait_limit_s=60.0)


@pytest.mark.parametrize(
    ("error", "again", "waits"),
    [
        (PeerLost(A, "cut"), True, True),
        (PeerUnreachable(A, "down"), True, True),
        (RunnerLost("m", "killed"), True, True),
        (Closing(), True, True),
        (JobFailed(Failed(job="j", kind="internal", message="boom")), True, True),
        (QueueFull(3, 1), True, False),
        (DoesNotFit(2, 1), True, False),
        (ModelNotThere(A, "m"), True, False),
        (DevicesUnknown("no driver"), True, False),
        (JobFailed(Failed(job="j", kind="bad_request", message="no")), False, False),
        (JobFailed(Failed(job="j", kind="context_exceeded", message="no")), False, False),
    ],
)
def test_only_what_another_machine_may_do_better_is_asked_of_one_and_only_a_loss_is_worth_waiting(
    error: NodeError, again: bool, waits: bool
) -> None:
    it = trail()
    assert it.take(A, error, 0.0) == again
    if again:
        assert it.excluded(0.0) == {A}
        assert it.waits(1.0) == waits
    assert it.last_error == type(error).__name__


def test_a_node_that_failed_gets_a_second_chance_a_moment_later() -> None:
    it = trail()
    it.take(A, PeerLost(A, "cut"), 10.0)
    it.give_second_chance(10.0 + SECOND_CHANCE_S / 2)
    assert it.excluded(10.0) == {A}
    it.give_second_chance(10.1 + SECOND_CHANCE_S)
    assert it.excluded(10.0) == frozenset()


def test_what_went_wrong_before_the_last_token_is_long_past() -> None:
    it = trail()
    it.take(A, Closing(), 0.0)
    it.take(C, ModelNotThere(C, "m"), 0.0)
    assert it.take(B, Closing(), 66.0, fruitful=True)
    assert it.excluded(66.0) == {B}
    assert it.waits(120.0)


def test_a_request_that_fells_one_node_after_the_other_is_given_up() -> None:
    it = trail()
    assert [it.take(A, RunnerLost("m", "killed"), 0.0) for _ in range(MOST_LOSSES)] == [True] * (MOST_LOSSES - 1) + [
        False
    ]
    fruitful = trail()
    assert all(fruitful.take(A, RunnerLost("m", "killed"), 0.0, fruitful=True) for _ in range(3 * MOST_LOSSES))


def test_any_number_of_refusals_leaves_the_others_to_be_asked() -> None:
    it = trail()
    for number in range(20):
        assert it.take(node_id(chr(ord("a") + number)), ModelNotThere(A, "m"), 0.0)
    assert len(it.excluded(0.0)) == 20


def test_a_full_node_is_asked_once_more_by_a_request_that_has_not_begun() -> None:
    it = trail()
    it.take(A, QueueFull(3, 100), 0.0)
    assert it.excluded(FULL_LIMIT_S - 0.1) == {A}
    assert it.excluded(FULL_LIMIT_S) == frozenset()
    it.take(A, QueueFull(3, 100), FULL_LIMIT_S)
    assert it.excluded(1000.0) == {A}


def test_an_answer_that_has_begun_waits_for_a_full_node_as_long_as_it_waits_at_all() -> None:
    it = trail()
    it.take(A, PeerLost(A, "cut"), 0.0, fruitful=True)
    assert all(it.take(B, QueueFull(3, 1), float(second)) for second in range(61))
    assert it.excluded(62.0) == {A}
    it.take(B, QueueFull(3, 1), 62.0)
    assert it.excluded(100.0) == {A, B}


def test_the_client_is_told_the_first_refusal_or_the_last_loss() -> None:
    it = trail()
    assert it.error() is None
    lost = PeerLost(A, "cut")
    it.take(A, lost, 0.0)
    assert it.error() is lost
    full = QueueFull(3, 1)
    it.take(B, full, 0.0)
    it.take(C, DoesNotFit(2, 1), 0.0)
    assert it.error() is full
