"""Nodes that work for each other over real TLS sockets."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from node import errors
from node.jobs import Chat, Delta, Done, EmbedJob, Event, Failed, Job, Message
from node.peers import Call, ModelNotThere, PeerLost, PeerUnreachable, RemoteNode, WentDown, WentUp
from node.peers.errors import RemovalTold
from node.peers.remote import BULKY_BYTES
from node.peers.session import Session
from node.supervisor import LoadOptions
from registry import Model, ModelName, ModelStore, Recipe
from tests.api.scripted_node import USAGE, ScriptedNode
from tests.peers.lan_nodes import LanNode, lan_nodes, until

OPTIONS = LoadOptions(num_ctx=64)


def job(**fields: Any) -> Job:
    return Job(id="j", prompt=Chat(messages=(Message(role="user", content="hello"),)), **fields)


async def events_of(node: RemoteNode, model: Model, asked: Job) -> list[Event]:
    async with asyncio.timeout(5), aclosing(node.run(model, asked, OPTIONS, 60.0)) as events:
        return [event async for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def scripted() -> ScriptedNode:
    node = ScriptedNode()
    node.say(Delta(job="j", text="Hel", tokens=(1,)), Delta(job="j", text="lo", tokens=(2,)))
    return node


async def test_a_remote_node_runs_what_it_is_given_and_streams_back_what_it_says(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    far = scripted()
    async with lan_nodes(tmp_path, [ScriptedNode(), far], [store, store]) as (here, there):
        asked = job(stop=("x",), resume=(7, 8))
        events = await events_of(here.peers.node(there.id), model, asked)
    assert text_of(events) == "Hello"
    assert events[-1] == Done(job="", reason="stop", usage=USAGE, context=(1, 2, 3))
    assert far.jobs == [asked]
    assert far.options == [OPTIONS]
    assert far.keep_alives == [60.0]


async def test_a_remote_node_embeds_renders_loads_and_unloads(tmp_path: Path, store: ModelStore, model: Model) -> None:
    far = scripted()
    async with lan_nodes(tmp_path, [ScriptedNode(), far], [store, store]) as (here, there):
        remote = here.peers.node(there.id)
        embedded = await remote.embed(model, EmbedJob(id="e", inputs=("a", "b")), OPTIONS)
        rendered = await remote.render(model, job(), OPTIONS)
        loaded = await remote.load(model, OPTIONS)
        assert await remote.unload(model.name)
    assert (len(embedded.vectors), rendered.text) == (2, "the prompt")
    assert (loaded.name, loaded.digest) == (model.name, model.digest)
    assert far.unloaded == [model.name]


@pytest.mark.parametrize(
    "error",
    [
        errors.QueueFull(3, 7),
        errors.DoesNotFit(10, 5, "tiny"),
        errors.LoadFailure("no"),
        errors.RunnerLost("tiny", "it crashed"),
        errors.SlowReader(5),
        errors.DevicesUnknown("odd"),
        errors.Closing(),
        errors.JobFailed(Failed(job="j", kind="context_exceeded", message="too long")),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_there_is_the_same_error_here(
    tmp_path: Path, store: ModelStore, model: Model, error: errors.NodeError
) -> None:
    far = ScriptedNode(events=[Delta(job="j", text="a", tokens=(1,)), error])
    async with lan_nodes(tmp_path, [ScriptedNode(), far], [store, store]) as (here, there):
        with pytest.raises(type(error)) as caught:
            await events_of(here.peers.node(there.id), model, job())
    assert caught.value.args == error.args


async def test_a_model_that_the_other_node_lacks_is_named(tmp_path: Path, store: ModelStore, model: Model) -> None:
    empty = ModelStore(tmp_path / "empty", cache_dir=tmp_path / "cache", builtin=tmp_path / "none")
    async with lan_nodes(tmp_path, [ScriptedNode(), scripted()], [store, empty]) as (here, there):
        with pytest.raises(ModelNotThere) as caught:
            await events_of(here.peers.node(there.id), model, job())
    empty.close()
    assert (caught.value.node, ModelName.parse(caught.value.model)) == (there.id, model.name)


async def test_closing_the_stream_cancels_the_job_there_and_keeps_the_link(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    far = scripted()
    far.hang_after = 1
    async with lan_nodes(tmp_path, [ScriptedNode(), far], [store, store]) as (here, there):
        remote = here.peers.node(there.id)
        async with aclosing(remote.run(model, job(), OPTIONS)) as events:
            assert isinstance(await anext(events), Delta)
        await until(lambda: far.closed == 1)
        far.hang_after = None
        assert text_of(await events_of(remote, model, job())) == "Hello"
        assert not [change for change in here.changes if isinstance(change, WentDown)]


async def test_a_killed_node_breaks_its_streams_at_once_and_goes_down(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    far = scripted()
    far.hang_after = 1
    async with lan_nodes(tmp_path, [ScriptedNode(), far], [store, store]) as (here, there):
        async with aclosing(here.peers.node(there.id).run(model, job(), OPTIONS)) as events:
            assert isinstance(await anext(events), Delta)
            await there.kill()
            async with asyncio.timeout(0.5):
                with pytest.raises(PeerLost):
                    await anext(events)
        await until(lambda: not here.membership.is_up(there.id), 1.0)
        assert isinstance(here.changes[-1], WentDown)
        with pytest.raises(PeerUnreachable):
            await events_of(here.peers.node(there.id), model, job())


async def test_a_node_that_falls_silent_with_its_connections_open_loses_its_streams_after_two_seconds(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    far = scripted()
    far.hang_after = 1
    async with lan_nodes(tmp_path, [ScriptedNode(), far], [store, store]) as (here, there):
        async with aclosing(here.peers.node(there.id).run(model, job(), OPTIONS)) as events:
            assert isinstance(await anext(events), Delta)
            freeze(there)
            began_s = time.monotonic()
            async with asyncio.timeout(5):
                with pytest.raises(PeerLost, match="silent"):
                    await anext(events)
            assert 1.4 < time.monotonic() - began_s < 3.5
        assert not here.membership.is_up(there.id)


async def test_what_another_node_sends_faster_than_we_read_costs_that_request_only(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    class Flood(ScriptedNode):
        async def run(self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None) -> Any:
            if job.stop:
                yield Done(job=job.id, reason="stop", usage=USAGE)
            for _ in range(400):
                yield Delta(job=job.id, text="x" * 100_000, tokens=(1,))
                await asyncio.sleep(0)

    async with lan_nodes(tmp_path, [ScriptedNode(), Flood()], [store, store]) as (here, there):
        remote = here.peers.node(there.id)
        async with aclosing(remote.run(model, job(), OPTIONS)) as slow:
            await anext(slow)
            await asyncio.sleep(1.0)
            assert isinstance((await events_of(remote, model, job(stop=("x",))))[-1], Done)
            with pytest.raises(errors.SlowReader):
                async for _ in slow:
                    pass
        assert here.membership.is_up(there.id)


async def test_a_node_does_what_differs_from_a_model_of_its_own_in_defaults_only(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    other = ModelStore(tmp_path / "other", cache_dir=tmp_path / "cache", builtin=tmp_path / "none")
    try:
        kind = other.create(ModelName.parse("kind"), Recipe(source=(model.weights,), system="Be kind."))
        strange = other.create(ModelName.parse("strange"), Recipe(source=(model.weights,), template="{{ .Prompt }}"))
        async with lan_nodes(tmp_path, [ScriptedNode(), scripted()], [other, store]) as (here, there):
            remote = here.peers.node(there.id)
            assert text_of(await events_of(remote, kind, job())) == "Hello"
            with pytest.raises(ModelNotThere):
                await events_of(remote, strange, job())
    finally:
        other.close()


async def test_many_streams_share_one_connection_and_do_not_mix(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    class Echo(ScriptedNode):
        async def run(self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None) -> Any:
            for number in range(20):
                await asyncio.sleep(0)
                yield Delta(job=job.id, text=f"{job.id}.{number} ", tokens=(number,))
            yield Done(job=job.id, reason="stop", usage=USAGE)

    async with lan_nodes(tmp_path, [ScriptedNode(), Echo()], [store, store]) as (here, there):
        remote = here.peers.node(there.id)
        jobs = [Job(id=f"j{n}", prompt=job().prompt) for n in range(50)]
        answers = await asyncio.gather(*(events_of(remote, model, asked) for asked in jobs))
        assert there.listener is not None
        connections = len(there.listener._state.connections)
    for asked, events in zip(jobs, answers, strict=True):
        assert text_of(events) == "".join(f"{asked.id}.{n} " for n in range(20))
    assert connections <= 3


async def test_a_removed_node_is_parted_from_by_everybody_within_two_seconds(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    far = scripted()
    far.hang_after = 1
    async with lan_nodes(tmp_path, [scripted(), scripted(), far], [store] * 3) as (first, second, removed):
        first.identity.remove_node(removed.id, now_s=first.started_at)
        first.peers.ledger_changed()
        await until(lambda: second.membership.get(removed.id) is None, 2.0)
        with pytest.raises(RemovalTold, match="removed"):
            await removed.peers.call(second.id, "ledger", {"keys": []}, dict)


async def test_who_waits_for_a_link_to_open_is_told_that_the_node_has_gone(
    tmp_path: Path, store: ModelStore, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.sleep(60)

    async with lan_nodes(tmp_path, [ScriptedNode(), scripted()], [store, store]) as (here, there):
        monkeypatch.setattr(Session, "serve", never)
        bulky = Job(id="j", prompt=Chat(messages=(Message(role="user", content="x" * (2 * BULKY_BYTES)),)))
        asking = asyncio.create_task(events_of(here.peers.node(there.id), model, bulky))
        await until(lambda: (there.id, "bulky") in here.peers._links)
        here.peers.forget(there.id)
        with pytest.raises(PeerUnreachable):
            await asking


async def test_after_a_goodbye_and_a_sleep_two_nodes_are_back_at_once_with_new_connections(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    async with lan_nodes(tmp_path, [scripted(), scripted()], [store, store]) as (here, there):
        await events_of(here.peers.node(there.id), model, job())
        before = await here.peers._link(there.id, "prompt")
        await here.peers.say_goodbye()
        await until(lambda: not there.membership.is_up(here.id))
        for member in there.membership:
            member.down_since_s -= 1000.0  # as if that was long ago: it is called once in five seconds now
        here.peers.dial_anew()
        assert before.lost.result() == "this machine slept"
        assert WentDown(there.id, "this machine slept") in here.changes
        await until(lambda: here.membership.is_up(there.id) and there.membership.is_up(here.id))
        assert text_of(await events_of(here.peers.node(there.id), model, job())) == "Hello"


async def test_a_member_found_by_address_alone_is_remembered_by_both(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    async with lan_nodes(tmp_path, [scripted(), scripted()], [store, store]) as (first, second):
        first.peers.forget(second.id)
        second.peers.forget(first.id)
        first.changes.clear()
        record = await first.peers.greet(second.address)
        assert record.node == second.id
        await until(lambda: first.membership.is_up(second.id) and second.membership.is_up(first.id))
        assert isinstance(first.changes[0], WentUp)  # beats may have followed it


async def test_a_node_at_a_remembered_address_that_is_another_one_gets_no_request(
    tmp_path: Path, store: ModelStore, model: Model
) -> None:
    async with lan_nodes(tmp_path, [scripted(), scripted(), scripted()], [store] * 3) as nodes:
        first, second, third = nodes
        await _pretend_to_be_at(first, second, third.address)
        with pytest.raises(PeerUnreachable, match="another node"):
            await first.peers.call(second.id, "hello", {"record": {"node": first.id}}, dict)


def freeze(node: LanNode) -> None:
    """As a cut cable would: connections stay open, nothing comes any more."""

    async def never(*_: object) -> None:
        await asyncio.sleep(60)

    for task in node.peers._beating.values():
        task.cancel()
    node.endpoints.calls["beat"] = Call(dict, never)


async def _pretend_to_be_at(asking: LanNode, node: LanNode, address: str) -> None:
    member = asking.membership.get(node.id)
    assert member is not None
    asking.peers._working.clear()
    await asyncio.sleep(0)
    member.addresses = (address,)
