from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordinator.queue import FairQueue, Queued, QueueRefused, Share, Ticket


def push(queue: FairQueue, client: str, now_s: float = 0.0, share: Share | None = None, cost: float = 1.0) -> Ticket:
    answer = queue.push(client, now_s, share=share, cost=cost)
    assert isinstance(answer, Queued)
    return answer.ticket


def order(queue: FairQueue, count: int | None = None) -> list[str]:
    clients = []
    while (count is None or len(clients) < count) and (ticket := queue.pop(0.0)):
        clients.append(ticket.client)
    return clients


def test_one_client_is_served_in_order_of_arrival() -> None:
    queue = FairQueue(10)
    tickets = [push(queue, "a") for _ in range(4)]
    assert [queue.pop(0.0) for _ in range(5)] == [*tickets, None]


def test_a_flood_delays_a_newcomer_by_one_request() -> None:
    queue = FairQueue(1000)
    for _ in range(500):
        push(queue, "flood")
    assert order(queue, 3) == ["flood"] * 3
    mine = push(queue, "small")
    assert queue.position(mine) <= 2
    assert "small" in order(queue, 2)


def test_clients_take_turns_by_their_shares() -> None:
    queue = FairQueue(1000)
    for _ in range(100):
        push(queue, "one")
        push(queue, "three", share=Share(3))
        push(queue, "urgent", share=Share(priority=1))
    served = Counter(order(queue, 80))
    assert served["three"] == pytest.approx(3 * served["one"], abs=3)
    assert served["urgent"] == pytest.approx(4 * served["one"], abs=4)


def test_the_lowest_priority_is_slow_and_not_dead() -> None:
    queue = FairQueue(10_000)
    push(queue, "low", share=Share(priority=-4))
    low = push(queue, "low", share=Share(priority=-4))
    for _ in range(5000):
        push(queue, "high")
    assert queue.position(low) == 256 + 2


def test_costly_requests_count_for_more() -> None:
    queue = FairQueue(1000)
    for _ in range(60):
        push(queue, "long", cost=5)
        push(queue, "short")
    assert Counter(order(queue, 60)) == {"short": 50, "long": 10}


def test_who_comes_late_takes_turns_from_then_on() -> None:
    queue = FairQueue(1000)
    for _ in range(60):
        push(queue, "early")
        push(queue, "too")
    order(queue, 60)
    for _ in range(20):
        push(queue, "late")
    assert Counter(order(queue, 12)) == {"early": 4, "too": 4, "late": 4}


def test_a_quiet_time_earns_no_claim() -> None:
    queue = FairQueue(100)
    for _ in range(10):
        push(queue, "early")
    assert order(queue) == ["early"] * 10
    for _ in range(4):
        push(queue, "late")
        push(queue, "early")
    assert Counter(order(queue, 4)) == {"late": 2, "early": 2}


def test_a_full_queue_makes_room_for_the_client_with_less() -> None:
    queue = FairQueue(4)
    flood = [push(queue, "flood") for _ in range(4)]
    answer = queue.push("small", 0.0)
    assert isinstance(answer, Queued)
    assert answer.displaced == flood[-1]
    assert len(queue) == 4
    assert isinstance(queue.push("flood", 0.0), QueueRefused)


def test_a_full_queue_of_equals_refuses() -> None:
    queue = FairQueue(3)
    for client in "abc":
        push(queue, client)
    assert isinstance(queue.push("d", 0.0), QueueRefused)


def test_whoever_leaves_gives_the_turn_back() -> None:
    queue = FairQueue(10)
    first, second = push(queue, "a"), push(queue, "a")
    assert queue.remove(second)
    assert not queue.remove(second)
    third = push(queue, "a")
    assert third.stamp == second.stamp
    assert order(queue) == ["a", "a"]
    assert not queue.remove(first)


def test_the_position_is_how_many_are_served_before() -> None:
    queue = FairQueue(100)
    tickets = [push(queue, client) for client in "aaabbc"]
    said = {ticket.number: queue.position(ticket) for ticket in tickets}
    served = [queue.pop(0.0) for _ in tickets]
    assert [said[ticket.number] for ticket in served if ticket] == [1, 2, 3, 4, 5, 6]
    assert queue.position(tickets[0]) == 0


def test_the_estimate_follows_the_rate_and_comes_true() -> None:
    queue, now = FairQueue(1000), 0.0
    for _ in range(100):
        push(queue, "a", now)
    for _ in range(60):
        now += 0.5
        queue.pop(now)
    waiting = push(queue, "b", now)
    said_s, began_s = queue.wait_s(waiting), now
    while queue.position(waiting):
        now += 0.5
        queue.pop(now)
    assert said_s == pytest.approx(now - began_s, rel=0.1)
    assert queue.retry_after_s() == 1


def test_idleness_is_not_mistaken_for_slowness() -> None:
    queue = FairQueue(10)
    queue.expect(1.0)
    for hour in range(5):
        push(queue, "a", hour * 3600.0)
        queue.pop(hour * 3600.0)
    assert queue.retry_after_s() == 1


def test_what_is_expected_holds_until_something_was_seen() -> None:
    queue = FairQueue(10)
    queue.expect(20.0)
    tickets = [push(queue, client) for client in "abc"]
    assert queue.wait_s(tickets[1]) == 40.0
    queue.pop(0.0)
    queue.pop(10.0)
    seen_s = queue.wait_s(tickets[2])
    queue.expect(1000.0)
    assert queue.wait_s(tickets[2]) == seen_s < 20.0


class QueueMachine(RuleBasedStateMachine):
    """Whatever happens, the queue is bounded, loses nobody and serves nobody twice."""

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.now = FairQueue(8), 0.0
        self.waiting: set[Ticket] = set()
        self.since_served: Counter[str] = Counter()

    @rule(client=st.sampled_from("abcd"), weight=st.sampled_from([0.5, 1, 4]), cost=st.sampled_from([1, 3]))
    def push(self, client: str, weight: float, cost: float) -> None:
        answer = self.queue.push(client, self.now, share=Share(weight), cost=cost)
        if isinstance(answer, Queued):
            if answer.displaced:
                self.waiting.remove(answer.displaced)
            self.waiting.add(answer.ticket)
        else:
            assert len(self.waiting) == 8
            assert answer.retry_after_s >= 1

    @rule(seconds=st.floats(0, 5))
    def pop(self, seconds: float) -> None:
        self.now += seconds
        first = min(self.waiting, default=None)
        assert self.queue.pop(self.now) == first
        if first:
            self.waiting.remove(first)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.remove(ticket)
        assert self.queue.remove(ticket)

    @invariant()
    def agrees(self) -> None:
        assert len(self.queue) == len(self.waiting) <= 8
        for place, ticket in enumerate(sorted(self.waiting), 1):
            assert self.queue.position(ticket) == place
            assert self.queue.wait_s(ticket) >= 0


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xy"), st.integers(1, 4)), min_size=1, max_size=60), st.integers(1, 4))
def test_nobody_waits_longer_than_a_turn_of_everybody_else(others: list[tuple[str, int]], my_cost: int) -> None:
    queue = FairQueue(1000)
    for client, cost in others:
        push(queue, client, cost=cost)
    queue.pop(0.0)
    mine = push(queue, "me", cost=my_cost)
    # At most one request of each other client began its turn before mine.
    assert queue.position(mine) <= 1 + len({client for client, _ in others})
