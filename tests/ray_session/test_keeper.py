from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from node.identity import NodeId
from node.ray_session import Formation, RayCommandFailed, RayKeeper, RayUnusable

ME = NodeId("a" * 16)
FIRST = Formation(generation=1, head=NodeId("b" * 16), address="127.0.0.11", port=1, token="t1")
SECOND = Formation(generation=2, head=NodeId("b" * 16), address="127.0.0.11", port=1, token="t2")
MINE = Formation(generation=3, head=ME, address="127.0.0.12", port=1, token="t3")


class FakeSession:
    def __init__(self, formation: Formation, events: list[str]) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.formation, self._events = formation, events
        self.gate = asyncio.Event()
        self.gate.set()

    async def stop(self) -> None:
        self._events.append(f"stop {self.formation.generation}")
        await self.gate.wait()


class FakeLauncher:
    """Records what it is asked; `failures` are raised first, `gate` holds starts back."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.sessions: list[FakeSession] = []

    async def start(self, formation: Formation) -> FakeSession:
        self.events.append(f"start {formation.generation}")
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.events.append(f"broken off {formation.generation}")
            raise
        if self.failures:
            raise self.failures.pop(0)
        self.sessions.append(FakeSession(formation, self.events))
        return self.sessions[-1]


class World:
    def __init__(self) -> None:
        self.launcher = FakeLauncher()
        self.head_lost: list[int] = []
        self.now_s = 1000.0
        self.keeper = RayKeeper(
            ME,
            self.launcher,
            on_head_lost=lambda formation, _: self.head_lost.append(formation.generation),
            clock=lambda: self.now_s,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(3):
            while not condition():
                await asyncio.sleep(0)
                self.now_s += 0.01


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.keeper.start()
    yield made
    await made.keeper.close()


async def test_it_is_in_the_formation_that_is_wanted_and_moves_to_the_next(world: World) -> None:
    world.keeper.want(FIRST)
    await world.until(lambda: world.keeper.status.phase == "up")
    world.keeper.want(SECOND)
    await world.until(lambda: world.keeper.status.generation == 2 and world.keeper.status.phase == "up")
    world.keeper.want(None)
    await world.until(lambda: world.keeper.status.phase == "off")
    assert world.launcher.events == ["start 1", "stop 1", "start 2", "stop 2"]


async def test_a_lost_session_that_ran_for_long_is_started_again_at_once(world: World) -> None:
    world.keeper.want(FIRST)
    await world.until(lambda: world.keeper.status.phase == "up")
    world.now_s += 60
    at_s = world.now_s
    world.launcher.sessions[0].lost.set_result("the raylet ended")
    await world.until(lambda: world.keeper.status.starts == 2)
    assert world.launcher.events == ["start 1", "stop 1", "start 1"]
    assert world.now_s - at_s < 0.4


async def test_one_that_falls_over_at_once_is_held_back(world: World) -> None:
    world.keeper.want(FIRST)
    await world.until(lambda: world.keeper.status.phase == "up")
    world.launcher.sessions[0].lost.set_result("the raylet ended")
    await world.until(lambda: world.keeper.status.phase == "waiting")
    assert world.keeper.status.reason == "the raylet ended"
    assert world.launcher.events == ["start 1", "stop 1"]


async def test_a_start_for_an_outdated_formation_is_broken_off(world: World) -> None:
    world.launcher.gate.clear()
    world.keeper.want(FIRST)
    await world.until(lambda: world.launcher.events == ["start 1"])
    world.keeper.want(SECOND)
    await world.until(lambda: world.launcher.events == ["start 1", "broken off 1", "start 2"])
    world.launcher.gate.set()
    await world.until(lambda: world.keeper.status.phase == "up")
    assert world.keeper.status.generation == 2


async def test_a_failed_start_is_tried_again_and_says_why(world: World) -> None:
    world.launcher.failures = [RayCommandFailed("ray start", "the head does not answer"), OSError("disk full")]
    world.keeper.want(FIRST)
    await world.until(lambda: world.keeper.status.phase == "waiting")
    assert world.keeper.status.reason == "`ray start` failed: the head does not answer"


async def test_what_can_never_work_is_not_tried_again_before_something_else_is_wanted(world: World) -> None:
    world.launcher.failures = [RayUnusable("Ray isn't installed here")]
    world.keeper.want(FIRST)
    await world.until(lambda: world.keeper.status.phase == "failed")
    world.now_s += 1000
    world.keeper.want(SECOND)
    await world.until(lambda: world.keeper.status.phase == "up")
    assert world.launcher.events == ["start 1", "start 2"]


async def test_a_head_that_can_not_be_brought_back_is_reported_once(world: World) -> None:
    world.launcher.failures = [RayCommandFailed("ray start", "no answer")] * 9
    world.keeper.want(MINE)
    await world.until(lambda: world.keeper.status.phase == "waiting")
    world.now_s += 60
    world.keeper.want(MINE)  # the same again changes nothing
    async with asyncio.timeout(3):
        while not world.head_lost:  # noqa: ASYNC110 - real time passes in the keeper's wait
            await asyncio.sleep(0.01)
    assert world.head_lost == [3]
    assert world.launcher.events == ["start 3", "start 3"]


async def test_closing_breaks_a_start_off(world: World) -> None:
    world.launcher.gate.clear()
    world.keeper.want(FIRST)
    await world.until(lambda: world.launcher.events == ["start 1"])
    await world.keeper.close()
    assert world.launcher.events == ["start 1", "broken off 1"]


async def test_closing_ends_the_session(world: World) -> None:
    world.keeper.want(FIRST)
    await world.until(lambda: world.keeper.status.phase == "up")
    await world.keeper.close()
    assert world.launcher.events == ["start 1", "stop 1"]


async def test_closing_while_a_session_is_being_ended_ends_it_whole(world: World) -> None:
    world.keeper.want(FIRST)
    await world.until(lambda: world.keeper.status.phase == "up")
    [session] = world.launcher.sessions
    session.gate.clear()
    world.keeper.want(None)
    await world.until(lambda: world.launcher.events == ["start 1", "stop 1"])
    closing = asyncio.create_task(world.keeper.close())
    await world.until(lambda: world.launcher.events == ["start 1", "stop 1", "stop 1"])
    assert not closing.done()
    session.gate.set()
    await closing


async def test_a_renewed_session_is_another_one(world: World) -> None:
    world.keeper.want(FIRST)
    await world.until(lambda: world.keeper.status.phase == "up")
    world.now_s += 60
    world.keeper.renew("the certificate is new")
    await world.until(lambda: world.keeper.status.starts == 2)
    assert world.launcher.events == ["start 1", "stop 1", "start 1"]
