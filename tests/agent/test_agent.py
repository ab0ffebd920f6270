"""A daemon's door and an agent's link over a real unix socket, with a coordinator that records what it is asked."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from node.agent import AgentDoor
from node.agent.link import AgentLink, CoordinatorLost, Heard, Stale
from node.agent.protocol import Hello
from node.identity import NodeId

ME, OTHER = NodeId("a" * 16), NodeId("b" * 16)


class FakeCoordinator:
    """`is_there` False: every call fails, as while Ray starts it again; then it knows nobody."""

    def __init__(self) -> None:
        self.is_there, self.knows, self.answer = True, False, "heard"
        self.hellos = 0
        self.reports: list[bytes] = []
        self.events: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def hello(self) -> None:
        self._check()
        self.hellos += 1
        self.knows = True

    async def take(self, report: bytes | None, events: Sequence[bytes]) -> Heard:
        await self.gate.wait()
        self._check()
        if self.answer == "stale":
            return "stale"
        if not self.knows:
            return "unknown"
        self.reports += [report] if report is not None else []
        self.events += events
        return "heard"

    def _check(self) -> None:
        if not self.is_there:
            self.knows = False
            raise CoordinatorLost("it is being restarted")


class World:
    def __init__(self, folder: Path) -> None:
        self.socket = folder / "agent.sock"
        self.actions: list[bytes] = []
        self.reach: list[str] = []
        self.door = AgentDoor(ME, self.actions.extend, self.reach.append)
        self.coordinator = FakeCoordinator()
        self.tasks: list[asyncio.Task[None]] = []

    def agent(self, *, node: NodeId = ME, generation: int = 1) -> AgentLink:
        hello = Hello(node=node, generation=generation, incarnation="r1", pid=1)
        link = AgentLink(hello, self.socket, self.coordinator)
        self.tasks.append(asyncio.create_task(link.run()))
        return link

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - what is awaited has no event
                await asyncio.sleep(0.005)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders have longer names than a socket may have
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def world(folder: Path) -> AsyncIterator[World]:
    made = World(folder)
    await made.door.open(made.socket, 1)
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    await made.door.close()


async def test_reports_and_events_reach_the_coordinator_and_its_actions_the_daemon(world: World) -> None:
    link = world.agent()
    await world.until(lambda: world.door.trouble == "")
    world.door.report(b"report")
    world.door.tell(b"event 1")
    world.door.tell(b"event 2")
    await world.until(lambda: world.coordinator.events == [b"event 1", b"event 2"])
    assert world.coordinator.reports == [b"report"]
    link.deliver([b"load", b"unload"])
    await world.until(lambda: world.actions == [b"load", b"unload"])
    assert world.reach[-1] == ""


async def test_of_reports_only_the_newest_is_passed_on_but_every_event_is(world: World) -> None:
    world.agent()
    await world.until(lambda: world.door.trouble == "")
    world.coordinator.gate.clear()
    world.door.report(b"0")
    await asyncio.sleep(0.05)
    for number in range(1, 50):
        world.door.report(b"%d" % number)
        world.door.tell(b"%d" % number)
    await asyncio.sleep(0.05)
    world.coordinator.gate.set()
    await world.until(lambda: len(world.coordinator.events) == 49)
    assert world.coordinator.reports == [b"0", b"49"]
    assert world.coordinator.events == [b"%d" % number for number in range(1, 50)]


async def test_what_was_told_before_an_agent_came_waits_for_it(world: World) -> None:
    world.door.report(b"report")
    world.door.tell(b"event")
    world.agent()
    await world.until(lambda: (world.coordinator.reports, world.coordinator.events) == ([b"report"], [b"event"]))


async def test_a_coordinator_that_was_restarted_is_told_the_newest_report_again(world: World) -> None:
    world.agent()
    world.door.report(b"report")
    await world.until(lambda: world.coordinator.reports == [b"report"])
    world.coordinator.is_there = False
    world.door.tell(b"event")
    await world.until(lambda: world.door.trouble == "it is being restarted")
    world.coordinator.is_there = True
    await world.until(lambda: world.door.trouble == "")
    await world.until(lambda: world.coordinator.events == [b"event"])
    assert world.coordinator.reports == [b"report", b"report"]
    assert world.coordinator.hellos == 2


async def test_a_coordinator_that_does_not_know_us_is_greeted(world: World) -> None:
    world.agent()
    await world.until(lambda: world.coordinator.hellos == 1)
    world.coordinator.knows = False
    world.door.tell(b"event")
    await world.until(lambda: world.coordinator.events == [b"event"])
    assert world.coordinator.hellos == 2


async def test_a_daemon_that_was_restarted_gets_the_actions_of_meanwhile(world: World) -> None:
    link = world.agent()
    await world.until(lambda: world.door.trouble == "")
    await world.door.close()
    await world.until(lambda: link._writer is None)
    link.deliver([b"load"])
    await world.door.open(world.socket, 1)
    await world.until(lambda: world.actions == [b"load"])


async def test_of_two_agents_the_later_one_is_heard(world: World) -> None:
    first = world.agent()
    await world.until(lambda: world.door.trouble == "")
    world.tasks.pop().cancel()
    second = world.agent()
    await world.until(lambda: second._writer is not None)
    first.deliver([b"old"])
    second.deliver([b"new"])
    await world.until(lambda: world.actions == [b"new"])


@pytest.mark.parametrize(("node", "generation"), [(ME, 2), (ME, 0), (OTHER, 1)])
async def test_an_agent_of_another_generation_or_node_is_sent_away(world: World, node: NodeId, generation: int) -> None:
    world.agent(node=node, generation=generation)
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(5):
            await world.tasks.pop()
    assert ended.group_contains(Stale)
    assert world.door.trouble == "no agent"


async def test_an_agent_that_the_coordinator_calls_stale_ends(world: World) -> None:
    world.coordinator.answer = "stale"
    world.agent()
    world.door.tell(b"event")
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(5):
            await world.tasks.pop()
    assert ended.group_contains(Stale)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


def endless(kind: bytes) -> bytes:
    """A message with a field that nobody knows and that has no end."""
    return framed(b"\x82\xa4type" + bytes([0xA0 + len(kind)]) + kind + b"\xa1x" + b"\x91" * 2500 + b"\x90")


NO_TEXT = framed(b"\x81\xa4type\xa1\xff")


@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xff", framed(b"abc"), b"\x00\x00", b"", NO_TEXT, endless(b"reach")])
async def test_nonsense_on_the_socket_costs_one_connection(
    world: World, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(world.socket))
    writer.write(sent)
    writer.write_eof()
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    world.agent()
    await world.until(lambda: world.door.trouble == "")
    assert "Unhandled" not in caplog.text


@pytest.mark.parametrize("sent", [framed(b"abc"), NO_TEXT, endless(b"leave")])
async def test_an_agent_that_hears_nonsense_comes_again(folder: Path, sent: bytes) -> None:
    came: list[asyncio.StreamWriter] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer)
        writer.write(sent)

    server = await asyncio.start_unix_server(answer, str(folder / "agent.sock"))
    link = AgentLink(Hello(node=ME, generation=1, incarnation="r", pid=1), folder / "agent.sock", FakeCoordinator())
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(10):
        while len(came) < 2 and not running.done():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
    for writer in came:
        writer.close()
    server.close()
