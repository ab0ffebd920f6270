"""Requests of one node in fair order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from api.cluster.turns import Turns
from coordinator.cluster_view import ClusterView
from node.asker import ASKER
from node.errors import QueueFull
from node.identity import Grant, NodeId
from node.jobs import Chat, Done, Event, Job, Usage
from node.report import ManifestDigest, NodeReport, ResidentModel, WeightsDigest
from node.route_trace import ROUTE_TRACE, RouteTrace
from node.supervisor import LoadOptions

ME = NodeId("a" * 16)
MODEL: Any = SimpleNamespace(name="m:latest", weights_digest="sha256:" + "1" * 64)


class OneAtATime:
    """A cluster with one place; records who was served, in order."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.most_at_once = self.now = 0
        self.go = asyncio.Event()

    async def run(
        self, model: Any, job: Job, options: LoadOptions, keep_alive_s: float | None
    ) -> AsyncGenerator[Event, None]:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            self.served.append(job.id)
            await self.go.wait()
            yield Done(job=job.id, reason="stop", usage=Usage())
        finally:
            self.now -= 1


def grant(name: str) -> Grant:
    return Grant(token_id=name, name=name, scopes=("infer",), issued_at_s=0, expires_at_s=1)


async def ask(turns: Turns, asker: str, number: int) -> None:
    ASKER.set(grant(asker))
    job = Job(id=f"{asker}{number}", prompt=Chat(messages=()))
    async with aclosing(turns.run(MODEL, job, LoadOptions())) as events:
        async for _ in events:
            pass


@pytest.fixture
def node() -> OneAtATime:
    return OneAtATime()


def turns_of(node: OneAtATime, *, limit: int = 64, mean_job_s: float = 0.0) -> Turns:
    view = ClusterView(ME)
    resident = ResidentModel(
        digest=WeightsDigest(MODEL.weights_digest),
        manifest=ManifestDigest(WeightsDigest(MODEL.weights_digest)),
        name="demo:latest",
        context_tokens=64,
        parallel=1,
        mean_job_s=mean_job_s,
    )
    view.take_own(NodeReport(node=ME, name="a", sequence=1, resident=(resident,)), time.monotonic())
    return Turns(node, view, limit=limit)  # type: ignore[arg-type]


async def test_a_flood_does_not_keep_another_client_waiting(node: OneAtATime) -> None:
    turns = turns_of(node)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(ask(turns, "flood", number))
        await asyncio.sleep(0)
        group.create_task(ask(turns, "quiet", 0))
        await asyncio.sleep(0.01)
        assert turns.waiting() == {MODEL.weights_digest: 10}
        node.go.set()
    assert node.most_at_once == 1
    assert node.served.index("quiet0") <= 2
    assert len(node.served) == 11
    assert turns.waiting() == {}


async def test_who_leaves_the_queue_takes_no_place(node: OneAtATime) -> None:
    turns = turns_of(node)
    first = asyncio.create_task(ask(turns, "a", 0))
    await asyncio.sleep(0.01)
    second, third = (asyncio.create_task(ask(turns, "b", number)) for number in range(2))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.wait({second})
    node.go.set()
    async with asyncio.timeout(5):
        await asyncio.gather(first, third)
    assert node.served == ["a0", "b1"]


async def test_a_full_queue_refuses_and_says_where_a_request_stands(node: OneAtATime) -> None:
    turns = turns_of(node, limit=1, mean_job_s=42.0)
    first = asyncio.create_task(ask(turns, "a", 0))
    await asyncio.sleep(0.01)
    trace = RouteTrace()
    ROUTE_TRACE.set(trace)
    second = asyncio.create_task(ask(turns, "a", 1))
    await asyncio.sleep(0.01)
    assert trace.queue == "1; wait=42.0s"
    with pytest.raises(QueueFull) as refusal:
        await ask(turns, "a", 2)
    assert refusal.value.retry_after_s == 42
    node.go.set()
    async with asyncio.timeout(5):
        await asyncio.gather(first, second)
