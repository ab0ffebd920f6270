from __future__ import annotations

import pytest
from msgspec import ValidationError

from coordinator.orders import (
    Asked,
    Load,
    LoadFailed,
    NodeLost,
    Order,
    Placed,
    PlacementEvent,
    Refused,
    Reported,
    Withdrawn,
)
from coordinator.placement import Placement
from coordinator.route import Refusal
from coordinator.switchboard import SILENT_S, Letter, Switchboard
from coordinator.wire import decode_event, decode_order, encode_event, encode_order
from node.identity import NodeId
from node.report import NodeReport, encode_report
from tests.support.clusters import MODEL, loaded, machine, node_id, request

A, B, C = node_id("a"), node_id("b"), node_id("c")
ASK = Asked("ask-1", request(), deadline_s=30.0)


def board(*nodes: NodeId, now_s: float = 0.0) -> Switchboard:
    made = Switchboard(3, Placement(NodeId("")))
    for node in nodes:
        assert made.hello(node, 3, f"raylet of {node}", now_s)
    return made


def take(
    made: Switchboard, node: NodeId, *events: PlacementEvent, report: NodeReport | None = None, now_s: float = 0.0
) -> list[Letter]:
    body = encode_report(report) if report is not None else None
    bodies = [encode_event(event, now_s) for event in events]
    heard, letters = made.take(node, 3, f"raylet of {node}", body, bodies, now_s)
    assert heard == "heard"
    return letters


@pytest.mark.parametrize("event", [
    Reported(machine("a", loaded())), NodeLost(A), Withdrawn("x"), LoadFailed(A, MODEL, "no memory"),
])  # fmt: skip
def test_events_travel(event: PlacementEvent) -> None:
    assert decode_event(encode_event(event, 5.0), 9.0) == event


@pytest.mark.parametrize("order", [
    Load(A, MODEL, "asked", context_tokens=4096, keep_alive_s=float("inf")), Placed("x", A),
    Refused("x", Refusal("no_room", 5, 3), "full"),
])  # fmt: skip
def test_orders_travel(order: Order) -> None:
    assert decode_order(encode_order(order)) == order


def test_deadlines_travel_as_time_left() -> None:
    arrived = decode_event(encode_event(ASK, 10.0), 1000.0)
    assert isinstance(arrived, Asked)
    assert arrived.deadline_s == 1020.0


def test_an_order_is_no_event() -> None:
    with pytest.raises(ValidationError, match="'Placed' is not expected here"):
        decode_event(encode_order(Placed("x", A)), 0.0)


def test_an_ask_is_ordered_where_it_can_load_and_answered_where_it_was_asked() -> None:
    made = board(A, B)
    take(made, A, report=machine("a", free_gib=0))
    take(made, B, report=machine("b"))
    (ordered,) = take(made, A, ASK)
    assert ordered.to == B
    assert isinstance(ordered.order, Load)
    answered = take(made, B, report=machine("b", loaded(), sequence=2), now_s=1.0)
    assert answered == [Letter(A, Placed("ask-1", B))]


def test_a_stale_agent_is_not_heard() -> None:
    made = board(A)
    assert made.take(A, 2, f"raylet of {A}", None, [], 0.0) == ("stale", [])
    assert made.take(A, 3, "an earlier raylet", None, [encode_event(ASK, 0.0)], 0.0) == ("stale", [])
    assert not made.hello(A, 4, "of another generation", 0.0)


def test_a_later_agent_of_a_node_takes_its_place() -> None:
    made = board(A)
    made.hello(A, 3, "new raylet", 1.0)
    assert made.take(A, 3, f"raylet of {A}", None, [], 1.0)[0] == "stale"
    assert made.take(A, 3, "new raylet", None, [], 1.0)[0] == "heard"


def test_a_restarted_coordinator_asks_everybody_to_introduce_themselves() -> None:
    assert board().take(A, 3, f"raylet of {A}", None, [], 0.0) == ("unknown", [])


def test_what_can_not_be_read_is_left_out_and_the_rest_counts() -> None:
    made = board(A)
    take(made, A, report=machine("a"))
    bodies = [b"\xff", b"", encode_event(ASK, 0.0)]
    heard, letters = made.take(A, 3, f"raylet of {A}", b"nonsense", bodies, 0.0)
    assert heard == "heard"
    assert [type(letter.order) for letter in letters] == [Load]


def test_a_silent_node_is_lost_and_its_load_moves_elsewhere() -> None:
    made = board(A, B, C)
    take(made, A, report=machine("a", free_gib=0))
    take(made, B, report=machine("b"))
    (first,) = take(made, A, ASK)
    assert first.to == B
    later_s = SILENT_S + 0.1
    take(made, A, now_s=later_s)
    take(made, C, report=machine("c"), now_s=later_s)
    (second,) = made.tick(later_s)
    assert (second.to, type(second.order)) == (C, Load)
    assert made.nodes == (A, C)


def test_another_nodes_word_for_a_loss_counts_only_once_the_node_has_fallen_silent() -> None:
    made = board(A, B)
    take(made, A, NodeLost(B), now_s=1.0)
    assert set(made.nodes) == {A, B}
    take(made, A, NodeLost(B), now_s=2.0)
    assert set(made.nodes) == {A}


def test_a_node_without_ray_is_heard_and_ordered_through_the_one_that_passes_its_reports_on() -> None:
    made = board(A)
    take(made, A, Reported(machine("c")), report=machine("a", free_gib=0))
    (letter,) = take(made, A, ASK)
    assert letter.to == A
    assert isinstance(letter.order, Load)
    assert letter.order.node == C


def test_a_node_that_speaks_for_itself_is_not_spoken_for() -> None:
    made = board(A, B)
    take(made, A, Reported(machine("b")), report=machine("a", free_gib=0))
    (letter,) = take(made, A, ASK)
    assert isinstance(letter.order, Refused)


def test_asks_of_a_lost_node_are_forgotten() -> None:
    made = board(A, B)
    take(made, A, report=machine("a", free_gib=0))
    take(made, B, report=machine("b"))
    take(made, A, ASK)
    take(made, B, now_s=SILENT_S + 0.1)
    made.tick(SILENT_S + 0.1)
    assert take(made, B, report=machine("b", loaded(), sequence=2), now_s=SILENT_S + 0.2) == []
