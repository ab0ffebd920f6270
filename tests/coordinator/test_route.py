from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coordinator.cost import HOP_S, START_S
from coordinator.explain import explain_lines, route_header
from coordinator.memory import Footprint
from coordinator.route import Candidate, Refusal, Route, Unfit, choose_route, consider
from coordinator.view import NodeReport
from node.report import WeightsDigest
from tests.support.clusters import FOOTPRINT, GIB, ME, MODEL, OTHER, held, loaded, machine, node_id, request, view_of


def chosen(answer: Route | Refusal) -> str:
    assert isinstance(answer, Route), answer
    return answer.node[0]


def test_the_only_node_that_has_it_in_memory_serves_it() -> None:
    route = choose_route(view_of(machine("a"), machine("b", loaded())), request(1000))
    assert isinstance(route, Route)
    assert (route.node, route.kind) == (node_id("b"), "resident")
    assert route.terms.prefill_s == pytest.approx(1.0)
    assert route.terms.total_s == pytest.approx(1.0 + HOP_S)


def test_the_faster_reader_wins() -> None:
    view = view_of(machine("a", loaded(prefill_tokens_s=100.0)), machine("b", loaded(prefill_tokens_s=5000.0)))
    assert chosen(choose_route(view, request(1000))) == "b"


def test_a_node_on_which_nothing_has_run_is_given_the_chance_to_show_its_speed() -> None:
    busy = loaded(prefill_tokens_s=5000.0, active=1, backlog_tokens=100)
    fresh = machine("b", loaded(prefill_tokens_s=0.0), prefill_bytes_s=0.0)
    assert chosen(choose_route(view_of(machine("a", busy), fresh), request(1000))) == "b"
    known = machine("b", loaded(prefill_tokens_s=0.0), prefill_bytes_s=1e9)
    assert chosen(choose_route(view_of(machine("a", busy), known), request(1000))) == "a"
    other = machine("a", busy, gpu_gib=8)  # of another kind: says nothing of what a processor does
    assert chosen(choose_route(view_of(other, fresh), request(1000))) == "a"


def test_a_conversation_returns_to_its_cache() -> None:
    view = view_of(machine("a", loaded()), machine("b", loaded(prefixes=frozenset({11, 22}))))
    route = choose_route(view, request(1000, marks={11: 500, 22: 900, 33: 990}))
    assert chosen(route) == "b"
    assert isinstance(route, Route)
    assert route.cached_tokens == 900


def test_a_conversation_leaves_its_cache_when_the_queue_there_costs_more() -> None:
    busy = loaded(prefixes=frozenset({22}), active=4, queued=8)
    view = view_of(machine("a", loaded()), machine("b", busy))
    assert chosen(choose_route(view, request(1000, marks={22: 900}))) == "a"
    assert chosen(choose_route(view, request(9000, marks={22: 8900}, context_tokens=None))) == "b"


def test_prompts_that_arrived_earlier_are_read_first() -> None:
    view = view_of(machine("a", loaded(backlog_tokens=3000, active=1)), machine("b", loaded()))
    assert chosen(choose_route(view, request(10))) == "b"


def test_requests_on_their_way_count() -> None:
    view = view_of(machine("a", loaded(parallel=1)), machine("b", loaded(parallel=1)))
    first = chosen(choose_route(view, request(10)))
    assert first == "a"
    assert chosen(choose_route(view.with_sent(ME, MODEL, 10), request(10))) == "b"


def test_equal_costs_go_to_the_longest_cached_prefix_then_to_the_emptiest() -> None:
    fast = {"prefill_tokens_s": 1e6}
    prefixed = view_of(machine("a", loaded(**fast)), machine("b", loaded(**fast, prefixes=frozenset({1}), active=3)))
    assert chosen(choose_route(prefixed, request(100, marks={1: 60}))) == "b"
    plain = view_of(machine("a", loaded(**fast, active=2)), machine("b", loaded(**fast, active=1)))
    assert chosen(choose_route(plain, request(100))) == "b"


@pytest.mark.parametrize(
    ("asked", "has", "does"),
    [(2048, 8192, True), (8192, 8192, True), (16_384, 8192, False), (100_000, 32_768, True), (None, 4096, True)],
)
def test_a_smaller_context_is_served_on_a_larger_instance(asked: int | None, has: int, does: bool) -> None:
    view = view_of(machine("a", loaded(context_tokens=has)))
    route = choose_route(view, request(10, context_tokens=asked))
    assert isinstance(route, Route)
    assert (route.kind == "resident") == does


def test_more_sequences_than_it_was_loaded_with_need_a_load() -> None:
    view = view_of(machine("a", loaded(parallel=2)), machine("b"))
    route = choose_route(view, request(10, parallel=4))
    assert isinstance(route, Route)
    assert (route.node[0], route.kind) == ("b", "load")


def test_an_instance_for_embeddings_does_not_generate() -> None:
    view = view_of(machine("a"), machine("b", loaded(embedding=True)))
    assert isinstance(generating := choose_route(view, request(10)), Route)
    assert generating.kind == "load"
    assert chosen(choose_route(view, request(10, embedding=True))) == "b"


def test_not_in_memory_anywhere_it_is_loaded_where_that_is_soonest() -> None:
    view = view_of(
        machine("a", load_bytes_s=0.2e9),
        machine("b", load_bytes_s=2e9, held=()),
        machine("c", load_bytes_s=1e9),
    )
    route = choose_route(view, request(10))
    assert isinstance(route, Route)
    assert (route.node[0], route.kind) == ("c", "load")
    assert route.terms.load_s == pytest.approx(START_S + 1.073741824)


def test_a_slow_instance_is_not_loaded_anew_where_it_is() -> None:
    view = view_of(machine("a", loaded(prefill_tokens_s=1.0), prefill_bytes_s=1e13))
    route = choose_route(view, request(1000))
    assert isinstance(route, Route)
    assert route.kind == "resident"


def test_missing_bytes_cost_their_way_over_the_link() -> None:
    view = view_of(machine("a"), machine("b", held=(held(present=GIB // 2),)))
    could, _ = consider(view, request(10))
    fetch = {candidate.node[0]: candidate.terms.fetch_s for candidate in could}
    assert fetch == {"a": 0.0, "b": pytest.approx(GIB / 2 / 100e6)}


def test_a_node_that_loads_it_already_is_preferred_to_a_second_load() -> None:
    view = view_of(machine("a"), machine("b", loading={MODEL: 2 * GIB}))
    assert chosen(choose_route(view, request(10))) == "b"


def test_a_queue_longer_than_a_load_is_left_for_the_load() -> None:
    view = view_of(machine("a", loaded(active=4, queued=40)), machine("b"))
    route = choose_route(view, request(10))
    assert isinstance(route, Route)
    assert (route.node[0], route.kind) == ("b", "load")


def test_the_context_asked_for_has_to_fit() -> None:
    # 1 GiB of weights, and 3.1 GiB of cache for 32,768 tokens.
    view = view_of(machine("a", free_gib=2), machine("b", free_gib=5, load_bytes_s=0.1e9))
    assert chosen(choose_route(view, request(10, context_tokens=4096))) == "a"
    assert chosen(choose_route(view, request(10, context_tokens=32_768))) == "b"
    assert chosen(choose_route(view, request(10, context_tokens=4096, parallel=4))) == "b"


def test_idle_models_make_room_and_those_in_use_or_pinned_do_not() -> None:
    idle = view_of(machine("a", loaded(OTHER, idle_s=400.0), free_gib=0.5))
    assert isinstance(route := choose_route(idle, request(10)), Route)
    assert route.candidates[-1].evicted == ("other:latest",)
    for keeping in ({"active": 1}, {"pinned": True}, {"queued": 1}):
        assert choose_route(
            view_of(machine("a", loaded(OTHER, **keeping), free_gib=0.5)),
            request(10),  # type: ignore[arg-type]
        ) == Refusal("no_room", FOOTPRINT.need(4096, 1).total_bytes, GIB // 2)


def test_who_may_wait_gets_the_room_of_what_is_in_use_once_that_has_ended() -> None:
    busy = loaded(OTHER, active=4, queued=5, mean_job_s=2.0)
    view = view_of(machine("a", busy, free_gib=0.5))
    route = choose_route(view, request(10, may_wait=True))
    assert isinstance(route, Route)
    assert (route.kind, route.candidates[-1].evicted) == ("load", ("other:latest",))
    assert route.terms.queue_s == 6.0
    # Better at once elsewhere, idle models first, and never a pinned one.
    both = view_of(machine("a", busy, free_gib=0.5), machine("b", free_gib=8))
    assert chosen(choose_route(both, request(10, may_wait=True))) == "b"
    third = WeightsDigest("sha256:" + "3" * 64)
    mixed = view_of(machine("a", busy, loaded(third, idle_s=9.0, name="third"), free_gib=0.5))
    assert choose_route(mixed, request(10, may_wait=True)).candidates[-1].evicted == ("third",)  # type: ignore[union-attr]
    pinned = view_of(machine("a", loaded(OTHER, active=1, pinned=True), free_gib=0.5))
    assert isinstance(choose_route(pinned, request(10, may_wait=True)), Refusal)


def test_an_instance_that_is_too_small_is_replaced_when_it_is_idle_pinned_or_not() -> None:
    for fields, queue_s in (({"pinned": True}, 0.0), ({"active": 2}, 1.0), ({}, 0.0)):
        view = view_of(machine("a", loaded(context_tokens=2048, **fields)))
        route = choose_route(view, request(10, context_tokens=16_384, may_wait=True))
        assert isinstance(route, Route)
        assert (route.kind, route.terms.queue_s) == ("load", queue_s)


def test_a_prompt_goes_where_it_need_not_be_cut() -> None:
    long, short = loaded(context_tokens=32_768, active=4, queued=9), loaded(context_tokens=4096)
    view = view_of(machine("a", long), machine("b", short))
    assert chosen(choose_route(view, request(1000))) == "b"
    assert chosen(choose_route(view, request(10_000))) == "a"
    assert [(node.node[0], node.why) for node in consider(view, request(10_000))[1]] == [("b", "too_short")]
    assert chosen(choose_route(view_of(machine("b", short)), request(10_000))) == "b"
    assert chosen(choose_route(view, request(10_000, context_tokens=2048))) == "b"


def test_what_a_node_lacks_and_can_not_fetch_is_not_loaded_there() -> None:
    lacks = machine("b", held=(), link_bytes_s=0.0, load_bytes_s=9e9, prefill_bytes_s=9e12)
    holder = machine("a", prefill_bytes_s=1e10)
    assert chosen(choose_route(view_of(holder, lacks), request(1000))) == "a"
    draining = machine("a", state="draining")
    assert choose_route(view_of(draining, lacks), request(1000)) == Refusal("no_node")
    assert choose_route(view_of(machine("a", held=()), lacks), request(1000)) == Refusal("unknown_model")


def test_a_model_used_just_now_is_evicted_less_gladly_than_one_forgotten() -> None:
    view = view_of(
        machine("a", loaded(OTHER, idle_s=5.0), free_gib=0.5),
        machine("b", loaded(OTHER, idle_s=3000.0), free_gib=0.5),
    )
    assert chosen(choose_route(view, request(10))) == "b"


def test_partial_offload_is_better_than_nothing_and_worse_than_a_whole_gpu() -> None:
    small, whole = machine("a", gpu_gib=1.2, prefill_bytes_s=1e13), machine("b", gpu_gib=8, prefill_bytes_s=1e13)
    could, _ = consider(view_of(small, whole), request(4000))
    assert [(c.node[0], c.partial) for c in could] == [("b", False), ("a", True)]
    assert chosen(choose_route(view_of(small), request(4000))) == "a"


def test_a_copy_in_memory_is_not_left_for_a_new_one_partly_in_ram() -> None:
    slow, part = machine("a", loaded(prefill_tokens_s=40.0)), machine("b", gpu_gib=1.2, prefill_bytes_s=1e13)
    assert chosen(choose_route(view_of(slow, part), request(500))) == "a"


def test_models_used_lately_on_a_node_make_another_one_prefer_an_idle_node() -> None:
    crowded = machine("a", loaded(OTHER, idle_s=1.0), prefill_bytes_s=1.5e12)
    assert chosen(choose_route(view_of(crowded, machine("b")), request(5000))) == "b"
    quiet = machine("a", loaded(OTHER, idle_s=600.0), prefill_bytes_s=1.5e12)
    assert chosen(choose_route(view_of(quiet, machine("b")), request(5000))) == "a"


def test_draining_lost_and_excluded_nodes_are_not_asked() -> None:
    view = view_of(
        machine("a", loaded(), state="draining"), machine("b", loaded(), state="lost"), machine("c", loaded())
    )
    assert choose_route(view, request(10, excluded=frozenset({node_id("c")}))) == Refusal("no_node")
    _, unfit = consider(view, request(10, excluded=frozenset({node_id("c")})))
    assert {(node.node[0], node.why) for node in unfit} == {("a", "draining"), ("b", "lost"), ("c", "excluded")}


def test_a_refusal_says_what_is_missing() -> None:
    assert choose_route(view_of(machine("a", held=())), request(10)) == Refusal("unknown_model")
    partly = view_of(machine("a", held=(held(present=1),)))
    assert choose_route(partly, request(10)) == Refusal("unknown_model")
    unknown = view_of(machine("a", held=(held(footprint=None),)))
    assert choose_route(unknown, request(10)) == Refusal("unknown_size")
    large = Footprint(file_bytes=GIB, layer_bytes=40 * GIB, train_context_tokens=4096)
    assert choose_route(view_of(machine("a", free_gib=7), machine("b", free_gib=9)), request(10, footprint=large)) == (
        Refusal("no_room", 40 * GIB, 9 * GIB)
    )


def test_a_request_bound_to_nodes_goes_to_no_other() -> None:
    view = view_of(machine("a", loaded()), machine("b"))
    assert chosen(choose_route(view, request(10, only=frozenset({node_id("b")})))) == "b"


def test_explaining_names_every_node_and_the_reason() -> None:
    view = view_of(
        machine("a", loaded(active=4, queued=4)),
        machine("b", loaded(prefixes=frozenset({5}))),
        machine("c", loaded(OTHER, active=1), free_gib=0.1),
        machine("d", state="draining"),
    )
    lines = explain_lines(view, request(1000, marks={5: 900}))
    assert lines[0].startswith("b wins: ")
    assert "900 tokens cached" in lines[1]
    assert any(line.lstrip().startswith("a ") and "queue" in line for line in lines)
    assert any("needs 1.4 GiB, has or could free 0.1 GiB" in line for line in lines)
    assert any("is being drained" in line for line in lines)
    route = choose_route(view, request(1000, marks={5: 900}))
    assert isinstance(route, Route)
    assert route_header(route).isascii()
    assert "; next=" in route_header(route)
    assert route_header(route).startswith(f"{node_id('b')}; resident; total=101.0ms; hop=1.0ms; prefill=100.0ms")


def test_explaining_a_refusal_says_how_much_was_needed_and_free() -> None:
    large = Footprint(file_bytes=GIB, layer_bytes=40 * GIB, train_context_tokens=4096)
    lines = explain_lines(view_of(machine("a", free_gib=7)), request(10, footprint=large))
    assert lines[0] == (
        "Nobody can: it fits nowhere: it needs 40.0 GiB, and the most any node has or could free is 7.0 GiB."
    )


def _nodes(letters: str) -> st.SearchStrategy[list[NodeReport]]:
    resident = st.builds(
        loaded,
        st.sampled_from([MODEL, MODEL, OTHER]),
        active=st.integers(0, 4),
        queued=st.integers(0, 3),
        context_tokens=st.sampled_from([2048, 8192, 32_768]),
        prefill_tokens_s=st.sampled_from([0.0, 50.0, 1000.0, 1e5]),
        idle_s=st.sampled_from([0.0, 10.0, 1000.0]),
        pinned=st.booleans(),
        prefixes=st.frozensets(st.integers(1, 4), max_size=3),
    )

    def build(letter: str) -> st.SearchStrategy[NodeReport]:
        return st.builds(
            lambda models, free, gpu, load, link, state, holds, loading, speed: machine(
                letter,
                *models,
                free_gib=free,
                gpu_gib=gpu,
                load_bytes_s=load,
                link_bytes_s=link,
                state=state,
                held=holds,
                loading=loading,
                prefill_bytes_s=speed,
            ),
            st.lists(resident, max_size=2, unique_by=lambda model: model.digest),
            st.sampled_from([0.5, 2, 16]),
            st.sampled_from([0, 0, 1.2, 8]),
            st.sampled_from([1e8, 1e9, 3e9]),
            st.sampled_from([1e7, 1e8]),
            st.sampled_from(["up", "up", "up", "draining", "lost"]),
            st.sampled_from([(), (held(),), (held(present=GIB // 2),)]),
            st.sampled_from([{}, {}, {MODEL: GIB}]),
            st.sampled_from([0.0, 1e11, 1e12, 1e13]),
        )

    return st.tuples(*(build(letter) for letter in letters)).map(list)


@settings(max_examples=300, deadline=None)
@given(
    _nodes("abcdef"),
    st.sampled_from([1, 500, 8000]),
    st.sampled_from([None, 2048, 16_384]),
    st.sampled_from([None, 2]),
)
def test_the_quick_choice_is_the_one_that_working_every_node_out_gives(
    reports: list[NodeReport], tokens: int, context: int | None, parallel: int | None
) -> None:
    view = view_of(*reports)
    asked = request(tokens, marks={2: tokens // 2, 3: tokens}, context_tokens=context, parallel=parallel)
    could, unfit = consider(view, asked)
    answer = choose_route(view, asked)
    if not could:
        assert isinstance(answer, Refusal)
        assert all(isinstance(node, Unfit) for node in unfit)
        return
    assert isinstance(answer, Route)
    # Costs within a microsecond are the same to the quick choice.
    assert answer.terms.total_s == pytest.approx(could[0].terms.total_s, abs=3e-6)
    best = min(candidate.terms.total_s for candidate in could if candidate.partial == could[0].partial)
    assert answer.terms.total_s <= best + 0.0021
    winner: Candidate = next(c for c in answer.candidates if c.node == answer.node)
    assert winner.terms == answer.terms
    report = view.nodes[answer.node]
    assert report.state == "up"
    assert sum(answer.terms[1:]) == pytest.approx(answer.terms.total_s)


@settings(max_examples=100, deadline=None)
@given(_nodes("abcd"))
def test_a_node_more_never_makes_the_answer_later(reports: list[NodeReport]) -> None:
    # What another node teaches about those on which nothing has run may make an estimate larger.
    assume(not any(host.guessed for host in view_of(*reports).hosts(MODEL).values()))
    fewer, more = choose_route(view_of(*reports[:3]), request(500)), choose_route(view_of(*reports), request(500))
    if isinstance(fewer, Route):
        assert isinstance(more, Route)
        # A node that can hold the whole model is worth waiting for where all others would keep a part of it in RAM.
        assert more.terms.total_s <= fewer.terms.total_s + 0.0021 or (fewer.in_part and not more.in_part)
