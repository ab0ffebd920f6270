from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import ValidationError

from coordinator.control import ControlPlane, ControlSettings
from coordinator.orders import (
    Asked,
    Load,
    LoadFailed,
    NodeLost,
    Order,
    Placed,
    PlacementEvent,
    Reported,
    Unload,
)
from coordinator.placement import Placement
from coordinator.switchboard import SILENT_S, Letter, Switchboard
from coordinator.wire import decode_event, decode_order, encode_event, encode_order
from node.identity import NodeId
from node.report import NodeReport, PrefixHash, encode_report
from tests.support.clusters import MODEL, loaded, machine, node_id, request

# Kinds that are no text, and values with a field that nobody knows and that has no end.
NESTED = b"\x91" * 2500 + b"\x90"
UNREADABLE = (
    b"\xff",
    b"",
    b"\x92\xa1\xff\x80",
    b"\x92\xa8NodeLost\x81\xa1x" + NESTED,
    b"\x92\xa6Placed\x81\xa1x" + NESTED,
)
A, B, C = node_id("a"), node_id("b"), node_id("c")
ASK = Asked("ask-1", request())


def board(*nodes: NodeId, now_s: float = 0.0) -> Switchboard:
    made = Switchboard(3, Placement(NodeId("")))
    for node in nodes:
        assert made.hello(node, 3, f"raylet of {node}", now_s)
    return made


def take(
    made: Switchboard, node: NodeId, *events: PlacementEvent, report: NodeReport | None = None, now_s: float = 0.0
) -> list[Letter]:
    body = encode_report(report) if report is not None else None
    bodies = [encode_event(event) for event in events]
    heard, letters = made.take(node, 3, f"raylet of {node}", body, bodies, now_s)
    assert heard == "heard"
    return letters


@pytest.mark.parametrize("event", [
    Reported(machine("a", loaded())), NodeLost(A), ASK, LoadFailed(A, MODEL, "no memory"),
])  # fmt: skip
def test_events_travel(event: PlacementEvent) -> None:
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("order", [
    Load(A, MODEL, "busy", context_tokens=4096), Placed("x", A), Placed("x", None),
])  # fmt: skip
def test_orders_travel(order: Order) -> None:
    assert decode_order(encode_order(order)) == order


def test_an_order_is_no_event() -> None:
    with pytest.raises(ValidationError, match="'Placed' is not expected here"):
        decode_event(encode_order(Placed("x", A)))


def test_an_ask_is_answered_where_it_was_asked_and_an_order_goes_where_it_is_to_be_carried_out() -> None:
    made = board(A, B)
    take(made, A, report=machine("a", free_gib=0))
    take(made, B, report=machine("b"))
    assert take(made, A, ASK) == [Letter(A, Placed("ask-1", B))]
    draining = machine("b", loaded(), sequence=2, state="draining")
    assert take(made, B, report=draining) == [Letter(B, Unload(B, MODEL, "drained"))]


def test_a_stale_agent_is_not_heard() -> None:
    made = board(A)
    assert made.take(A, 2, f"raylet of {A}", None, [], 0.0) == ("stale", [])
    assert made.take(A, 3, "an earlier raylet", None, [encode_event(ASK)], 0.0) == ("stale", [])
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
    for report in (b"nonsense", b"\x81\xa1\xff\xc0", b"\x81\xa1x" + NESTED):
        heard, letters = made.take(A, 3, f"raylet of {A}", report, [*UNREADABLE, encode_event(ASK)], 0.0)
        assert (heard, letters) == ("heard", [Letter(A, Placed("ask-1", A))])


def test_orders_that_can_not_be_read_hold_up_no_others(tmp_path: Path) -> None:
    orders: list[Order] = []
    none = tmp_path / "none"
    settings = ControlSettings(state=tmp_path, certificate=none, key=none, authority=none, addresses=tuple)
    control = ControlPlane(A, settings, on_order=orders.append)
    control._take_orders((*UNREADABLE, encode_order(Placed("x", A))))
    assert orders == [Placed("x", A)]


def test_what_makes_no_sense_is_left_out_and_the_rest_counts() -> None:
    made = board(A)
    nonsense = Asked("ask-0", request(prefix_hashes=(PrefixHash(1), PrefixHash(2)), prefix_tokens=()))
    prefixes = frozenset({PrefixHash(2)})
    take(made, A, report=machine("a", loaded(prefixes=prefixes)))
    assert take(made, A, nonsense, ASK) == [Letter(A, Placed("ask-1", A))]


def test_a_silent_node_is_lost_and_given_nothing_more() -> None:
    made = board(A, B)
    take(made, A, report=machine("a"))
    take(made, B, report=machine("b", load_bytes_s=9e9))
    assert take(made, A, ASK) == [Letter(A, Placed("ask-1", B))]
    later_s = SILENT_S + 0.1
    take(made, A, now_s=later_s)
    assert made.tick(later_s) == []
    assert made.nodes == (A,)
    assert take(made, A, ASK, now_s=later_s) == [Letter(A, Placed("ask-1", A))]


def test_another_nodes_word_for_a_loss_counts_only_once_the_node_has_fallen_silent() -> None:
    made = board(A, B)
    take(made, A, NodeLost(B), now_s=1.0)
    assert set(made.nodes) == {A, B}
    take(made, A, NodeLost(B), now_s=2.0)
    assert set(made.nodes) == {A}


def test_a_node_without_ray_is_heard_and_ordered_through_the_one_that_passes_its_reports_on() -> None:
    made = board(A)
    take(made, A, Reported(machine("c")), report=machine("a", free_gib=0))
    assert take(made, A, ASK) == [Letter(A, Placed("ask-1", C))]
    draining = machine("c", loaded(), sequence=2, state="draining")
    assert take(made, A, Reported(draining)) == [Letter(A, Unload(C, MODEL, "drained"))]


def test_a_node_that_speaks_for_itself_is_not_spoken_for() -> None:
    made = board(A, B)
    take(made, A, Reported(machine("b")), report=machine("a", free_gib=0))
    assert take(made, A, ASK) == [Letter(A, Placed("ask-1", None))]
