from __future__ import annotations

import random
from dataclasses import replace

from bench.conversations import Samples, summarise
from bench.conversations_node import route_by_load
from coordinator.route import Route
from tests.support.clusters import loaded, machine, node_id, request, view_of


def test_the_goal_binds_the_median_and_caches_are_counted_in_tokens() -> None:
    ours = Samples([0.1, 0.2, 9.0], prompt_tokens=1000, cached_tokens=800)
    theirs = Samples([0.5, 0.5, 0.5], prompt_tokens=1000, cached_tokens=400)
    rows = summarise({"ayni": ours, "least-loaded": theirs})
    assert (rows[0].ayni, rows[0].peer, rows[0].ratio, rows[0].met) == (200.0, 500.0, 0.4, True)
    assert (rows[-1].ayni, rows[-1].peer) == (80.0, 40.0)


def test_the_peer_looks_at_loads_and_at_nothing_else() -> None:
    view = view_of(machine("a", loaded(active=1, prefixes=frozenset({7}))), machine("b", loaded()))
    route = route_by_load(random.Random(1))
    asked = request(1000, marks={7: 900})
    chosen = route(view, asked)
    assert isinstance(chosen, Route)
    assert (chosen.node, chosen.kind) == (node_id("b"), "resident")
    other = route(view, replace(asked, excluded=frozenset({node_id("b")})))
    assert isinstance(other, Route)
    assert other.node == node_id("a")
