"""Announced addresses cost a bounded number of attempts, and none keeps another from being tried."""

from __future__ import annotations

from random import Random

from node.discovery import Knocks, PeerAddress
from node.discovery.knocks import SLOWEST_S

FLOOD = [PeerAddress("192.0.2.1", port) for port in range(1, 201)]
BOX = PeerAddress("192.0.2.2")


def times(knocks: Knocks, announced: list[PeerAddress], *, most: int, seconds: int) -> dict[PeerAddress, list[float]]:
    """When each is tried by somebody who looks every second."""
    found: dict[PeerAddress, list[float]] = {address: [] for address in announced}
    for now_s in range(seconds):
        for address in knocks.due(announced, float(now_s), most=most):
            found[address].append(float(now_s))
    return found


def test_an_address_is_tried_at_once_and_then_less_and_less_often() -> None:
    tried = times(Knocks(Random(1)), [BOX], most=4, seconds=200)[BOX]
    assert tried == [0, 2, 6, 14, 30, 62, 122, 182]
    assert tried[-1] - tried[-2] == SLOWEST_S


def test_a_flood_costs_no_more_than_so_many_attempts_a_second_and_few_in_the_long_run() -> None:
    knocks = Knocks(Random(1))
    assert all(len(knocks.due(FLOOD, float(s), most=16)) <= 16 for s in range(300))
    assert sum(len(knocks.due(FLOOD, float(s), most=16)) for s in range(300, 600)) <= len(FLOOD) * (300 / SLOWEST_S + 1)


def test_one_address_among_a_flood_is_tried_soon() -> None:
    for seed in range(20):
        knocks = Knocks(Random(seed))
        times(knocks, FLOOD, most=16, seconds=60)
        assert times(knocks, [*FLOOD, BOX], most=16, seconds=60)[BOX]


def test_what_is_announced_anew_is_tried_at_once() -> None:
    knocks = Knocks(Random(1))
    times(knocks, [BOX], most=4, seconds=100)
    assert knocks.due([], 100.0, most=4) == []
    assert knocks.due([BOX], 101.0, most=4) == [BOX]


def test_nothing_is_tried_while_as_many_as_may_are_under_way() -> None:
    assert Knocks(Random(1)).due(FLOOD, 0.0, most=0) == []
