"""A sleep seen by the clocks."""

from __future__ import annotations

from node.sleep import SleepClock
from node.sleep.clocks import asleep_so_far_s


def test_a_sleep_is_told_of_once() -> None:
    readings = iter([100.0, 100.5, 160.0, 160.0])
    clock = SleepClock(lambda: next(readings))
    assert [clock.slept_s() for _ in range(3)] == [0.0, 59.5, 0.0]


def test_what_lies_between_two_readings_of_two_clocks_is_no_sleep() -> None:
    readings = iter([100.0, 101.9, 100.0])
    clock = SleepClock(lambda: next(readings))
    assert [clock.slept_s() for _ in range(2)] == [0.0, 0.0]


def test_this_machine_can_say_how_long_it_has_slept() -> None:
    assert asleep_so_far_s() > -1.0
    assert SleepClock().slept_s() == 0.0
