"""How a member judges what announces itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from api.cluster.finding import Finder
from tests.support.clusters import node_id

ME, OTHER, GONE = node_id("a"), node_id("b"), node_id("c")


def test_members_are_told_from_those_who_were_removed() -> None:
    ledger = SimpleNamespace(removed_nodes={GONE})
    member: Any = SimpleNamespace(
        membership=[SimpleNamespace(node=OTHER, name="b")],
        identity=SimpleNamespace(node_id=ME, cluster_id="home", ledger=ledger),
    )
    settings: Any = SimpleNamespace()
    me = Finder(member, settings, version="1").myself()
    assert (me.node, me.members, me.removed) == (ME, {OTHER: "b"}, {GONE})
