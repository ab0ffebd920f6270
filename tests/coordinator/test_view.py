from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.cost import RouteRequest
from coordinator.explain import explain_lines
from coordinator.route import choose_route
from coordinator.view import NodeReport, View, prefill_bytes_s
from node.report import MAX_PREFIXES, decode_report, encode_report
from tests.support.clusters import GIB, MODEL, OTHER, held, loaded, machine, node_id, view_of


def test_a_report_survives_the_wire() -> None:
    report = machine("b", loaded(prefixes=frozenset({1, 2**64 - 1}), pinned=True), gpu_gib=8, follows=node_id("c"))
    assert decode_report(encode_report(report)) == report


@pytest.mark.parametrize(
    "change",
    [
        {"resident": (loaded(prefixes=frozenset(range(MAX_PREFIXES + 1))),)},
        {"name": "x" * 513},
        {"held": (held(),) * 4097},
        {"sequence": -1},
        {"resident": (loaded(parallel=0),)},
        {"resident": (loaded(idle_s=math.inf),)},
        {"resident": (loaded(size_bytes=1 << 60),)},
        {"resident": (loaded(expires_in_s=math.nan),)},
        {"held": (replace(held(), size_bytes=1 << 60),)},
        {"load_bytes_s": math.inf},
        {"link_bytes_s": math.nan},
    ],
)
def test_a_report_beyond_its_bounds_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_report(encode_report(replace(machine("b"), **change)))


@pytest.mark.parametrize("fastest", [0.0, 5e-324, 1e18])
def test_no_speed_that_a_report_may_tell_of_breaks_a_decision(fastest: float) -> None:
    speeds = dict.fromkeys(("link_bytes_s", "load_bytes_s", "prefill_bytes_s", "decode_bytes_s"), fastest)
    busy = loaded(OTHER, active=3, prefill_tokens_s=fastest, mean_job_s=fastest, idle_s=1e18)
    odd = replace(machine("b", loaded(prefill_tokens_s=fastest, mean_job_s=fastest), busy), **speeds)
    empty = replace(machine("c"), **speeds)
    view = view_of(machine("a"), odd, empty)
    for only in ({"b"}, {"c"}, set()):
        request = RouteRequest(model=MODEL, prompt_tokens=100, only=frozenset(node_id(name) for name in only))
        choose_route(view, request)
        explain_lines(view, request)


def test_an_unknown_field_of_a_newer_version_is_ignored() -> None:
    fields = msgspec.to_builtins(machine("b")) | {"colour": "blue"}
    assert decode_report(msgspec.msgpack.encode(fields)) == machine("b")


def test_reports_that_were_overtaken_only_say_that_the_node_lives() -> None:
    new = machine("b", loaded(), sequence=7)
    view = view_of(new).with_report(machine("b", sequence=6), 5.0)
    assert view.nodes[node_id("b")] == new
    assert view.heard_at_s[node_id("b")] == 5.0


def test_a_restarted_daemon_counts_from_one_again_and_is_believed() -> None:
    old = machine("b", loaded(), sequence=700, started_at=10.0)
    view = view_of(old).with_report(machine("b", sequence=1, started_at=20.0), 5.0)
    assert not view.hosts(MODEL)


def test_a_heartbeat_without_the_list_of_models_keeps_the_list() -> None:
    view = view_of(machine("b")).with_report(replace(machine("b", loaded()), sequence=2).without_held(), 1.0)
    assert view.holders(MODEL) == {node_id("b"): held()}
    assert not view.nodes[node_id("b")].held_unchanged


def test_a_lost_node_hosts_and_holds_nothing_until_it_reports_again() -> None:
    view = view_of(machine("a"), machine("b", loaded()))
    lost = view.with_state(node_id("b"), "lost")
    assert (dict(lost.hosts(MODEL)), set(lost.holders(MODEL))) == ({}, {node_id("a")})
    assert set(lost.with_report(machine("b", loaded(), sequence=2), 9.0).hosts(MODEL)) == {node_id("b")}


def test_what_was_sent_counts_until_the_node_reports() -> None:
    view = view_of(machine("b", loaded())).with_sent(node_id("b"), MODEL, 50).with_sent(node_id("b"), MODEL, 7)
    assert view.sent[node_id("b"), MODEL] == (2, 57)
    assert not view.with_report(machine("b", loaded(), sequence=2), 1.0).sent


def test_a_new_view_leaves_the_old_one_as_it_was() -> None:
    old = view_of(machine("a"), machine("b", loaded()))
    assert old.hosts(MODEL)
    old.with_report(machine("b", sequence=2), 1.0)
    old.without(node_id("b"))
    assert set(old.hosts(MODEL)) == {node_id("b")}
    assert set(old.holders(MODEL)) == {node_id("a"), node_id("b")}


def test_other_models_at_work_share_the_devices() -> None:
    view = view_of(machine("b", loaded(), loaded(OTHER, active=1)))
    assert view.hosts(MODEL)[node_id("b")].prefill_tokens_s == 500
    assert view.hosts(OTHER)[node_id("b")].prefill_tokens_s == 1000


def test_of_models_that_share_weights_the_most_complete_counts() -> None:
    part, whole = held(present=1), held()
    for both in ((part, whole), (whole, part)):
        view = view_of(machine("b", held=both))
        assert view.holders(MODEL) == {node_id("b"): whole}


def test_a_speed_that_was_never_measured_is_guessed_from_the_devices() -> None:
    assert prefill_bytes_s(machine("b", prefill_bytes_s=0.0)) < prefill_bytes_s(
        machine("c", prefill_bytes_s=0.0, gpu_gib=8)
    )


def _reports() -> st.SearchStrategy[NodeReport]:
    residents = st.lists(
        st.builds(loaded, st.sampled_from([MODEL, OTHER]), active=st.integers(0, 5), embedding=st.booleans()),
        max_size=3,
        unique_by=lambda model: (model.digest, model.embedding),
    )
    return st.builds(
        lambda letter, models, sequence, state, holds, loading: machine(
            letter, *models, sequence=sequence, state=state, held=holds, loading=loading
        ),
        st.sampled_from("abc"),
        residents,
        st.integers(1, 50),
        st.sampled_from(["up", "draining", "lost"]),
        st.sampled_from([(), (held(),), (held(OTHER, present=GIB // 2), held())]),
        st.dictionaries(st.sampled_from([MODEL, OTHER]), st.just(GIB), max_size=2),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_reports(), st.sampled_from(["report", "leave", "lost"])), max_size=12))
def test_an_index_kept_up_to_date_is_the_one_made_anew(steps: list[tuple[NodeReport, str]]) -> None:
    view = view_of(machine("a"))
    view.loaders()
    for report, what in steps:
        if what == "report":
            view = view.with_report(report, 1.0)
        elif what == "leave":
            view = view.without(report.node)
        else:
            view = view.with_state(report.node, "lost")
        fresh = View(view.nodes, view.heard_at_s, view.me)
        for model in (MODEL, OTHER):
            assert view.hosts(model) == fresh.hosts(model)
            assert view.hosts(model, embedding=True) == fresh.hosts(model, embedding=True)
            assert view.holders(model) == fresh.holders(model)
            assert view.loading(model) == fresh.loading(model)
        assert view.loaders() == fresh.loaders()
