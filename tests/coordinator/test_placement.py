from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from coordinator.orders import (
    Asked,
    Load,
    LoadFailed,
    NodeLost,
    Order,
    Placed,
    PlacementEvent,
    Reported,
    Tick,
    Unload,
)
from coordinator.placement import Patience, Placement
from coordinator.view import NodeReport
from node.footprint import Footprint
from tests.support.clusters import GIB, ME, MODEL, OTHER, held, loaded, machine, node_id, request

A, B, C = node_id("a"), node_id("b"), node_id("c")
FOREVER = float("inf")


class Owner:
    """A placement, with a clock and the numbering of reports."""

    def __init__(self, *reports: NodeReport, patience: Patience | None = None) -> None:
        self.placement, self.now, self.sequence = Placement(ME, patience), 0.0, 1
        for report in reports:
            assert self.hears(Reported(report)) == []

    def hears(self, event: PlacementEvent, after_s: float = 0.0) -> list[Order]:
        self.now += after_s
        return self.placement.on(event, self.now)

    def reports(self, report: NodeReport, after_s: float = 0.0) -> list[Order]:
        self.sequence += 1
        return self.hears(Reported(replace(report, sequence=self.sequence)), after_s)

    def ticks(self, seconds: float) -> list[Order]:
        orders = []
        for _ in range(round(seconds)):
            orders += self.hears(Tick(), 1.0)
        return orders


def asked(ask: str = "1", **fields: Any) -> Asked:
    return Asked(ask, request(10, **fields))


def test_an_ask_for_what_is_in_memory_is_sent_there() -> None:
    assert Owner(machine("a"), machine("b", loaded())).hears(asked()) == [Placed("1", B)]


def test_one_load_however_many_ask() -> None:
    owner = Owner(machine("a"), machine("b", load_bytes_s=2e9))
    assert owner.hears(asked("1")) == [Placed("1", B)]
    # By itself, the second would go where it is cheaper now.
    owner.reports(machine("a", load_bytes_s=9e9))
    assert owner.hears(asked("2")) == [Placed("2", B)]
    owner.reports(machine("b", load_bytes_s=2e9, loading={MODEL: GIB}))
    assert owner.hears(asked("3", context_tokens=None)) == [Placed("3", B)]
    owner.reports(machine("b", loaded()))
    assert owner.hears(asked("4")) == [Placed("4", B)]
    assert owner.ticks(3) == []


def test_who_may_not_go_where_it_loads_is_sent_elsewhere() -> None:
    owner = Owner(machine("a"), machine("b", load_bytes_s=2e9))
    owner.hears(asked("1"))
    assert owner.hears(asked("2", excluded=frozenset({B}))) == [Placed("2", A)]


def test_a_larger_context_than_the_one_that_loads_is_a_load_of_its_own() -> None:
    owner = Owner(machine("a"), machine("b", load_bytes_s=2e9))
    owner.hears(asked("1", context_tokens=4096))
    assert owner.hears(asked("2", context_tokens=2048)) == [Placed("2", B)]
    assert owner.hears(asked("3", context_tokens=16_384)) == [Placed("3", A)]
    # Nobody else is left: the machine at it will load once more.
    assert owner.hears(asked("4", context_tokens=16_384, only=frozenset({B}))) == [Placed("4", B)]


def test_what_is_about_to_leave_serves_nobody_any_more() -> None:
    owner = Owner(machine("a", loaded(OTHER, idle_s=9.0), free_gib=0.5), machine("b", held=(held(OTHER),), free_gib=0))
    assert owner.hears(asked(only=frozenset({A}))) == [Placed("1", A)]
    assert owner.hears(asked("2", model=OTHER)) == [Placed("2", None)]


def test_two_loads_are_not_promised_the_same_memory() -> None:
    size = {"footprint": Footprint(file_bytes=GIB, layer_bytes=3 * GIB, train_context_tokens=4096)}
    owner = Owner(machine("a", free_gib=4, held=(held(), held(OTHER))))
    assert owner.hears(asked("1", **size)) == [Placed("1", A)]
    assert owner.hears(asked("2", model=OTHER, **size)) == [Placed("2", None)]


def test_what_is_in_use_makes_room_once_for_who_may_wait() -> None:
    busy = loaded(OTHER, active=1)
    owner = Owner(machine("a", busy, free_gib=0.5, held=(held(), held(OTHER))))
    assert owner.hears(asked("1")) == [Placed("1", None)]
    assert owner.hears(asked("2", may_wait=True)) == [Placed("2", A)]
    room = owner.placement.view.nodes[A]
    assert (room.resident, set(room.loading)) == ((), {MODEL})


def test_nobody_can_is_said() -> None:
    owner = Owner(machine("a", free_gib=0.5), machine("b", free_gib=0.7))
    assert owner.hears(asked()) == [Placed("1", None)]


def test_a_failure_that_nobody_ordered_changes_nothing() -> None:
    owner = Owner(machine("a"))
    assert owner.hears(LoadFailed(A, MODEL, "what?")) == []
    assert owner.hears(asked()) == [Placed("1", A)]


def test_a_promised_load_is_forgotten_with_its_node_its_daemon_or_its_end() -> None:
    fast = {"load_bytes_s": 2e9}
    for gone in (
        NodeLost(B),
        Reported(machine("b", **fast, started_at=5.0, sequence=9, free_gib=0)),
        Reported(machine("b", **fast, sequence=9, free_gib=0)),
    ):
        owner = Owner(machine("a"), machine("b", **fast))
        owner.hears(asked("1"))
        owner.reports(machine("b", **fast, loading={MODEL: GIB}))
        owner.hears(gone)
        assert owner.hears(asked("2")) == [Placed("2", A)]


def test_a_promised_load_that_no_report_ever_shows_is_forgotten_and_held_against_nobody() -> None:
    owner = Owner(machine("a"), machine("b", load_bytes_s=2e9), patience=Patience(unseen_load_s=5))
    owner.hears(asked())
    owner.reports(machine("a", load_bytes_s=9e9))
    assert owner.ticks(7) == []
    assert owner.hears(asked("2")) == [Placed("2", A)]
    assert owner.hears(asked("3", only=frozenset({B}))) == [Placed("3", B)]


def test_a_pinned_model_makes_no_room() -> None:
    owner = Owner(machine("a", loaded(OTHER, pinned=True, idle_s=900.0), free_gib=0.5))
    assert owner.hears(asked()) == [Placed("1", None)]


def test_requests_that_have_waited_longer_than_a_load_takes_bring_a_second_copy() -> None:
    # A load takes 1.6 s at b, reading a usual prompt there 1.1 s; four requests have waited that long after a second.
    busy = loaded(active=4, queued=4)
    owner = Owner(machine("a", busy), machine("b"), machine("c", load_bytes_s=0.5e9))
    assert owner.ticks(1) == []
    assert owner.ticks(1) == [Load(B, MODEL, "busy", context_tokens=8192)]
    assert owner.ticks(20) == []
    assert owner.reports(machine("b", busy)) == []
    assert owner.ticks(1) == [Load(C, MODEL, "busy", context_tokens=8192)]


def test_requests_that_wait_in_other_nodes_queues_count() -> None:
    owner = Owner(machine("a", loaded(active=4)), machine("b"), machine("c", waiting={MODEL: 9}))
    assert owner.ticks(2) == [Load(B, MODEL, "busy", context_tokens=8192)]


def test_a_copy_that_is_free_but_slow_does_not_stand_in_the_way_of_another() -> None:
    owner = Owner(machine("a", loaded(active=4, queued=9)), machine("b"), machine("c", loaded(prefill_tokens_s=9.0)))
    assert owner.ticks(3) == [Load(B, MODEL, "busy", context_tokens=8192)]
    owner = Owner(machine("a", loaded(active=4, queued=9)), machine("b"), machine("c", loaded()))
    assert owner.ticks(3) == []


def test_a_copy_takes_nobodys_room_who_was_used_lately() -> None:
    busy = machine("a", loaded(active=4, queued=9))
    assert Owner(busy, machine("b", loaded(OTHER, idle_s=20.0), free_gib=0.5)).ticks(3) == []
    orders = Owner(busy, machine("b", loaded(OTHER, idle_s=90.0), free_gib=0.5)).ticks(3)
    assert orders == [Unload(B, OTHER, "room"), Load(B, MODEL, "busy", context_tokens=8192)]


def test_a_copy_is_whole_or_none() -> None:
    busy = loaded(active=4, queued=9)
    part = {"gpu_gib": 1.2, "load_bytes_s": 1e10, "prefill_bytes_s": 1e14}
    assert Owner(machine("a", busy), machine("b", **part)).ticks(3) == []
    assert Owner(machine("a"), machine("b", **part), machine("c", state="lost")).hears(asked()) == [Placed("1", A)]
    assert Owner(machine("b", **part)).hears(asked()) == [Placed("1", B)]


def test_now_and_then_a_request_that_waits_brings_no_copy() -> None:
    owner = Owner(machine("a", loaded(active=4)), machine("b"))
    for _ in range(20):
        owner.reports(machine("a", loaded(active=4, queued=1)))
        assert owner.ticks(1) == []
        owner.reports(machine("a", loaded(active=4)))
        assert owner.ticks(120) == []


def test_the_copy_is_given_back_when_the_first_can_do_the_work_alone() -> None:
    owner = Owner(machine("a", loaded(active=4, queued=40)), machine("b"), patience=Patience(spare_s=10))
    assert owner.ticks(3)
    owner.reports(machine("b", loaded(active=3)))
    owner.reports(machine("a", loaded(active=2)))
    assert owner.ticks(12) == []
    owner.reports(machine("b", loaded()))
    assert owner.ticks(9) == []
    assert owner.ticks(2) == [Unload(B, MODEL, "given_back")]


def test_what_somebody_asked_for_is_not_given_back() -> None:
    owner = Owner(machine("a", loaded()), machine("b", loaded()), patience=Patience(spare_s=10))
    assert owner.ticks(30) == []


def test_draining_moves_what_is_used_and_then_empties_the_node() -> None:
    owner = Owner(machine("a", loaded(active=1), loaded(OTHER)), machine("b"))
    draining = {"state": "draining"}
    assert owner.reports(machine("a", loaded(active=1), loaded(OTHER), **draining)) == [
        Load(B, MODEL, "drained", context_tokens=8192),
        Unload(A, OTHER, "drained"),
    ]
    owner.reports(machine("a", loaded(active=1), **draining))
    owner.reports(machine("b", loaded()))
    assert owner.hears(asked()) == [Placed("1", B)]
    assert owner.reports(machine("a", loaded(), **draining)) == [Unload(A, MODEL, "drained")]
    assert owner.reports(machine("a", **draining)) == []
    assert owner.ticks(5) == []


def test_a_node_that_drains_no_longer_is_one_like_the_others() -> None:
    owner = Owner(machine("a", state="draining"))
    owner.reports(machine("a", loaded()))
    assert owner.ticks(60) == []
    assert owner.hears(asked("2", only=frozenset({A}))) == [Placed("2", A)]


def test_a_node_that_was_drained_and_restarted_takes_work() -> None:
    owner = Owner(machine("a", state="draining"))
    owner.hears(NodeLost(A))
    owner.reports(machine("a", started_at=9.0))
    assert owner.hears(asked("1", only=frozenset({A}))) == [Placed("1", A)]
