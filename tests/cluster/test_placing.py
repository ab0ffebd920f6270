"""One member's part in the Ray cluster: what it claims, and what it remembers of that."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.cluster.placing import Placing
from coordinator.election import Timing
from coordinator.orders import Unload
from node.logs import parts_of
from node.ray_session import Formation, RaySessionError
from tests.support.clusters import MODEL, machine, node_id

ME, OTHER = node_id("a"), node_id("b")


class Member:
    """A member whose view the test writes."""

    def __init__(self, folder: Path) -> None:
        self.me, self.hosts = ME, ("127.0.0.11",)
        self.settings = SimpleNamespace(ray_port=24_000)
        ledger = SimpleNamespace(removed_nodes=frozenset())
        self.identity: Any = SimpleNamespace(
            certificate_path=folder, key_path=folder, ca_path=folder, ledger=ledger, cluster_id="c"
        )
        self.reporter: Any = SimpleNamespace(standing={})
        self.measured: Any = None
        self.others: list[Any] = [machine("b", ray_version="2", started_at=9.0)]
        self.peers: Any = SimpleNamespace(call=self._call)

    @property
    def view(self) -> Any:
        nodes = {report.node: report for report in (self.report(), *self.others)}
        return SimpleNamespace(now=SimpleNamespace(nodes=nodes))

    def report(self) -> Any:
        standing = {key: value for key, value in self.reporter.standing.items() if key != "follows"}
        return machine("a", ray_version="2", started_at=1.0, **standing)

    def changed(self) -> None:
        pass

    async def _call(self, node: Any, name: str, ask: Any, answer: Any) -> Formation:
        return Formation(generation=ask.generation, head=node, address="127.0.0.12", port=1, token="t")


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path)


def placing(member: Member, folder: Path) -> Placing:
    made = Placing(member, folder)  # type: ignore[arg-type]
    made._election.timing = Timing(settle_s=0.0)
    made.control.follow = lambda formation: None  # type: ignore[method-assign]
    return made


async def test_who_can_not_found_a_session_claims_nothing_and_lets_others_do_it(
    member: Member, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def found(*_: Any) -> Formation:
        raise RaySessionError("no port is free")

    made = placing(member, tmp_path)
    made.control.found = found  # type: ignore[method-assign]
    for _ in range(6):
        await made._look()
    assert caplog.text.count("can't head generation 1: no port is free") == 1
    assert member.reporter.standing == {"head_failed": True, "generation": 0}
    assert not (tmp_path / "generation").exists()


async def test_a_follower_remembers_and_tells_the_highest_generation(member: Member, tmp_path: Path) -> None:
    made = placing(member, tmp_path)
    for generation in (7, 26):
        member.others = [machine("b", ray_version="2", generation=generation, follows=OTHER, head=True)]
        await made._look()
    assert member.reporter.standing == {"head_failed": False, "generation": 26, "follows": OTHER, "head": False}
    assert (tmp_path / "generation").read_text() == "26"
    member.others = []
    await made._look()
    assert member.reporter.standing == {"head_failed": False, "generation": 26}
    again = placing(member, tmp_path)
    await again._look()
    assert member.reporter.standing["generation"] == 26


async def test_no_number_is_used_twice(member: Member, tmp_path: Path) -> None:
    founded: list[int] = []

    def found(generation: int, address: str, removed: Any) -> Formation:
        founded.append(generation)
        return Formation(generation=generation, head=ME, address=address, port=1, token="t")

    for _ in range(2):
        made = placing(member, tmp_path)
        member.reporter.standing = {}
        made.control.found = found  # type: ignore[method-assign]
        for _ in range(4):
            await made._look()
    assert founded == [1, 2]


async def test_an_order_is_logged_in_fields(member: Member, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    left = []
    member.measured = SimpleNamespace(leave=lambda weights, *, embedding: left.append((str(weights), embedding)))
    await placing(member, tmp_path)._carry_out(Unload(ME, MODEL, "drained"))
    assert left == [(MODEL, False)]
    (record,) = (each for each in caplog.records if each.name == "api.cluster.placing")
    assert parts_of(record) == (
        "order Unload",
        {"node": ME, "model": MODEL, "reason": "drained", "embedding": False},
    )
