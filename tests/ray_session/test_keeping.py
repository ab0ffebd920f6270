from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.identity import NodeId
from node.ray_session.formation import Formation
from node.ray_session.keeping import HEAD_ATTEMPTS, RETRY_S, GiveUp, Situation, Start, Step, Stop, Wait, next_step

FIRST = Formation(generation=1, head=NodeId("a"), address="127.0.0.11", port=1, token="t1")
SECOND = Formation(generation=2, head=NodeId("b"), address="127.0.0.12", port=1, token="t2")
FAILED = Situation(wanted=FIRST, failures=1, failed_at_s=100.0, failure="no answer")


@pytest.mark.parametrize(
    ("situation", "step"),
    [
        (Situation(), Wait()),
        (Situation(wanted=FIRST), Start(FIRST)),
        (Situation(wanted=FIRST, running=FIRST), Wait()),
        (Situation(wanted=SECOND, running=FIRST), Stop("another formation is wanted")),
        (Situation(running=FIRST), Stop("no longer wanted")),
        (Situation(wanted=FIRST, running=FIRST, running_lost="the raylet ended"), Stop("the raylet ended")),
        (Situation(wanted=FIRST, hopeless=True, failure="no Ray"), Wait()),
        (FAILED, Wait(100.0 + RETRY_S[0])),
        (replace(FAILED, failures=3), Wait(100.0 + RETRY_S[2])),
        (replace(FAILED, failures=99), Wait(100.0 + RETRY_S[-1])),
        (replace(FAILED, failed_at_s=90.0), Start(FIRST)),
    ],
)
def test_a_worker_takes_one_step_at_a_time(situation: Situation, step: Step) -> None:
    assert next_step(situation, is_head=False, now_s=100.1) == step


def test_a_head_that_fails_too_often_is_given_up_once() -> None:
    failed = replace(FAILED, failures=HEAD_ATTEMPTS)
    assert next_step(failed, is_head=True, now_s=500.0) == GiveUp(FIRST, "no answer")
    assert next_step(replace(failed, given_up=True), is_head=True, now_s=500.0) == Wait()
    assert next_step(failed, is_head=False, now_s=500.0) == Start(FIRST)


@given(
    situation=st.builds(
        Situation,
        wanted=st.sampled_from([None, FIRST, SECOND]),
        running=st.sampled_from([None, FIRST, SECOND]),
        running_lost=st.sampled_from(["", "the raylet ended"]),
        failures=st.integers(0, 9),
        failed_at_s=st.floats(0, 100),
        given_up=st.booleans(),
        hopeless=st.booleans(),
    ),
    is_head=st.booleans(),
)
def test_from_anywhere_the_steps_lead_to_what_is_wanted_or_say_why_not(situation: Situation, is_head: bool) -> None:
    now_s = 100.0
    for _ in range(20):
        match next_step(situation, is_head=is_head, now_s=now_s):
            case Stop():
                assert situation.running is not None
                situation = replace(situation, running=None, running_lost="")
            case Start(formation):
                assert situation.running is None
                assert formation == situation.wanted
                situation = replace(situation, running=formation)
            case GiveUp():
                situation = replace(situation, given_up=True)
            case Wait(None):
                is_there = situation.running == situation.wanted and not (situation.running and situation.running_lost)
                assert is_there or situation.hopeless or (is_head and situation.given_up)
                return
            case Wait(until_s):
                assert until_s is not None
                assert until_s > now_s
                now_s = until_s
    raise AssertionError("the steps do not end")
