"""The cluster as one node: requests go where they are served best, and go on elsewhere when that breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from coordinator.cluster_view import ClusterView
from coordinator.dispatch import Dispatcher
from coordinator.footprints import Footprints
from coordinator.limits import Allowed, Limited, Limits, LimitTable
from coordinator.view import HeldModel, RamReport, ResidentModel, WeightsDigest
from node.asker import ASKER
from node.errors import Closing, DoesNotFit, JobFailed, QueueFull, RunnerLost, Unserved
from node.identity import Grant
from node.jobs import Chat, Delta, Done, Embedded, EmbedJob, Event, Failed, Job, Message, Raw
from node.peers import ModelNotThere
from node.report import ManifestDigest, NodeReport
from node.serves import Serves
from node.settings import Settings
from node.supervisor import LoadOptions
from node.telemetry import new_traceparent
from registry import Model, ModelStore
from tests.peers.counting_node import WORDS, CountingNode, whole_text
from tests.peers.lan_nodes import LanNode, lan_nodes, until

JOB = Job(id="ask", prompt=Chat(messages=(Message(role="user", content="count"),)))


class ClusterNode:
    """A member with its dispatcher; the model is in its memory unless `resident` says otherwise."""

    def __init__(self, lan: LanNode, model: Model, settings: Settings, limits: LimitTable) -> None:
        self.lan, self.model = lan, model
        self.resident = True
        self.speed = 1000.0
        self.cluster = ClusterView(lan.id)
        lan.report_with = self.report_with
        lan.peers._on_change = lambda change: self.cluster.take(change, time.monotonic())
        self.dispatcher = Dispatcher(
            lan.serves,  # type: ignore[arg-type]
            lan.peers.node,
            self.cluster,
            Footprints(settings),
            limits=limits,
            wait_limit_s=2.0,
        )

    def report_with(self, report: NodeReport) -> NodeReport:
        digest, name = WeightsDigest(str(self.model.weights_digest)), str(self.model.name)
        size = self.model.size_bytes
        resident = ResidentModel(
            digest=digest,
            manifest=ManifestDigest(digest),
            name=name,
            context_tokens=64,
            default_context=True,
            parallel=4,
            size_bytes=size,
            prefill_tokens_s=self.speed,
        )
        return replace(
            report,
            ram=RamReport(total_bytes=1 << 33, free_bytes=1 << 32),
            resident=(resident,) if self.resident else (),
            held=(
                HeldModel(
                    digest=digest, manifest=ManifestDigest(digest), name=name, size_bytes=size, present_bytes=size
                ),
            ),
        )

    def tell(self) -> None:
        """Have everybody know the present report at once."""
        self.cluster.take_own(self.lan.report(), time.monotonic())
        self.lan.peers.beat_now()


@pytest.fixture
def cluster(
    tmp_path: Path, store: ModelStore, model: Model
) -> Callable[[Sequence[Serves]], AsyncIterator[list[ClusterNode]]]:
    settings = Settings(models_dir=tmp_path / "models", state_dir=tmp_path / "state")

    @asynccontextmanager
    async def make(serves: Sequence[Serves]) -> AsyncIterator[list[ClusterNode]]:
        async with lan_nodes(tmp_path, serves, [store] * len(serves)) as lans:
            nodes = [ClusterNode(lan, model, settings, LimitTable()) for lan in lans]
            for node in nodes:
                node.tell()
            await until(lambda: all(len(node.cluster.now.nodes) == len(nodes) for node in nodes))
            yield nodes

    return make  # type: ignore[return-value]


async def answer(node: ClusterNode, job: Job = JOB, *, at_first: Callable[[], object] | None = None) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(10), aclosing(node.dispatcher.run(node.model, job, LoadOptions())) as coming:
        async for event in coming:
            events.append(event)
            if at_first is not None and len(events) == 5:
                made = at_first()
                if asyncio.iscoroutine(made):
                    await made
    return events


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def tokens_of(events: list[Event]) -> list[int]:
    return [token for event in events if isinstance(event, Delta) for token in event.tokens]


async def only_on(nodes: list[ClusterNode], *places: int) -> None:
    """Have the model in memory there only, much cheaper than loading it; everybody knows."""
    for index, node in enumerate(nodes):
        node.resident = index in places
        node.tell()
    digest = WeightsDigest(str(nodes[0].model.weights_digest))
    wanted = {nodes[place].lan.id for place in places}
    await until(lambda: all(set(node.cluster.now.hosts(digest)) == wanted for node in nodes))


async def slow_down(nodes: list[ClusterNode], place: int) -> None:
    """Have a node read prompts more slowly than the others; everybody knows."""
    slow = nodes[place]
    slow.speed = 100.0
    slow.tell()
    digest = WeightsDigest(str(slow.model.weights_digest))
    await until(
        lambda: all(node.cluster.now.hosts(digest)[slow.lan.id].resident.prefill_tokens_s == 100.0 for node in nodes)
    )


async def test_a_request_goes_to_the_node_that_has_the_model(cluster, model) -> None:
    serves = [CountingNode(), CountingNode()]
    async with cluster(serves) as nodes:
        await only_on(nodes, 1)
        events = await answer(nodes[0])
    assert text_of(events) == whole_text()
    assert (len(serves[0].asked), len(serves[1].asked)) == (0, 1)


async def test_a_stream_whose_node_is_killed_goes_on_elsewhere_without_a_token_lost_or_doubled(cluster) -> None:
    serves = [CountingNode(), CountingNode(), CountingNode()]
    async with cluster(serves) as nodes:
        await only_on(nodes, 1, 2)
        await slow_down(nodes, 2)  # so that the first choice is certain
        events = await answer(nodes[0], at_first=nodes[1].lan.kill)
    assert tokens_of(events) == list(range(WORDS))
    assert text_of(events) == whole_text()
    assert isinstance(events[-1], Done)
    assert {event.job for event in events} == {JOB.id}
    assert len(serves[1].asked) == 1
    resumed = serves[2].asked[0]
    assert resumed.resume == tuple(range(len(resumed.resume)))
    assert len(resumed.resume) >= 4


async def test_a_node_that_has_just_failed_is_not_asked_again_while_another_can(cluster) -> None:
    failing = CountingNode(stop_after=0, failure=RunnerLost("tiny", "it crashed"))
    serves = [CountingNode(), failing, CountingNode()]
    async with cluster(serves) as nodes:
        await only_on(nodes, 1, 2)
        await slow_down(nodes, 2)  # the failing node stays the quicker one
        assert text_of(await answer(nodes[0])) == whole_text()
    assert [len(node.asked) for node in serves] == [0, 1, 1]


async def test_a_stream_moves_as_often_as_its_machines_are_drained_one_after_the_other(cluster) -> None:
    serves = [CountingNode(stop_after=0, failure=Closing())] + [CountingNode(stop_after=7, failure=Closing())] * 2
    async with cluster(serves) as nodes:
        await only_on(nodes, 1, 2)
        nodes[0].dispatcher._wait_limit_s = 0.0
        events = await answer(nodes[0])
    assert text_of(events) == whole_text()
    assert [len(job.resume) for job in serves[1].asked] == [0, 7, 14, 21, 28, 35]


async def test_what_has_begun_goes_on_where_it_is_when_every_machine_drains(cluster) -> None:
    serves = [CountingNode(stop_after=0, failure=Closing()), CountingNode(stop_after=7, failure=Closing())]
    async with cluster(serves) as nodes:
        await only_on(nodes, 1)

        async def drain_all() -> None:
            for node in nodes:
                inner = node.report_with
                node.lan.report_with = lambda report, inner=inner: replace(inner(report), state="draining")
                node.tell()
            await until(lambda: all(seen.state == "draining" for seen in nodes[0].cluster.now.nodes.values()))

        events = await answer(nodes[0], at_first=drain_all)
    assert text_of(events) == whole_text()


async def test_any_number_of_machines_that_refuse_leave_the_one_that_can(cluster) -> None:
    refusing = [CountingNode(stop_after=0, failure=ModelNotThere("x", "tiny")) for _ in range(5)]
    serves = [*refusing, CountingNode()]
    async with cluster(serves) as nodes:
        await only_on(nodes, *range(6))
        await slow_down(nodes, 5)
        assert text_of(await answer(nodes[0])) == whole_text()
    assert [len(node.asked) for node in serves] == [1] * 6


async def test_a_stream_goes_on_here_when_every_other_node_is_gone(cluster) -> None:
    serves = [CountingNode(), CountingNode()]
    async with cluster(serves) as nodes:
        await only_on(nodes, 1)
        events = await answer(nodes[0], at_first=nodes[1].lan.kill)
    assert text_of(events) == whole_text()
    assert len(serves[0].asked) == 1


async def test_a_runner_that_dies_is_tried_again_where_it_was_if_nobody_else_can(cluster) -> None:
    only = CountingNode(stop_after=7, failure=RunnerLost("tiny", "it crashed"))
    async with cluster([only]) as nodes:
        events = await answer(nodes[0])
    assert text_of(events) == whole_text()
    assert [len(job.resume) for job in only.asked] == [0, 7, 14, 21, 28, 35]


async def test_a_runner_that_always_dies_ends_in_its_error_and_not_in_a_loop(cluster) -> None:
    serves = [CountingNode(stop_after=0, failure=RunnerLost("tiny", "it crashed")) for _ in range(2)]
    async with cluster(serves) as nodes:
        with pytest.raises(RunnerLost):
            await answer(nodes[0])
    assert sum(len(node.asked) for node in serves) == 4


async def test_a_full_node_is_passed_over_and_its_refusal_is_the_answer_only_if_all_refuse(cluster) -> None:
    full, free = CountingNode(stop_after=0, failure=QueueFull(9, 7)), CountingNode()
    async with cluster([free, full]) as nodes:
        await only_on(nodes, 1)
        assert text_of(await answer(nodes[0])) == whole_text()
        free.stop_after, free.failure = 0, QueueFull(3, 4)
        with pytest.raises(QueueFull) as caught:
            await answer(nodes[0])
    assert caught.value.waiting == 9


async def test_an_answer_that_has_begun_waits_for_a_node_that_is_full(cluster) -> None:
    class FullAtFirst(CountingNode):
        async def run(self, model, job, options, keep_alive_s):
            if not self.asked:
                self.asked.append(job)
                raise QueueFull(9, 1)
            async with aclosing(super().run(model, job, options, keep_alive_s)) as events:
                async for event in events:
                    yield event

    other = FullAtFirst()
    async with cluster([other, CountingNode()]) as nodes:
        await only_on(nodes, 1)
        events = await answer(nodes[0], at_first=nodes[1].lan.kill)
    assert text_of(events) == whole_text()
    assert len(other.asked) == 2


async def test_a_job_that_fails_by_itself_is_not_tried_elsewhere(cluster) -> None:
    failed = Failed(job="ask", kind="context_exceeded", message="too long")
    serves = [CountingNode(stop_after=0, failure=JobFailed(failed)) for _ in range(2)]
    async with cluster(serves) as nodes:
        with pytest.raises(JobFailed):
            await answer(nodes[0])
    assert sum(len(node.asked) for node in serves) == 1


async def test_closing_the_answer_cancels_it_on_the_other_node(cluster) -> None:
    far = CountingNode(stop_after=3)
    async with cluster([CountingNode(), far]) as nodes:
        await only_on(nodes, 1)
        async with aclosing(nodes[0].dispatcher.run(nodes[0].model, JOB, LoadOptions())) as events:
            await anext(events)
        await until(lambda: far.closed == 1)


def spent(node: ClusterNode) -> int:
    """Tokens that bob's token has used on this node."""
    return node.dispatcher._limits.report(time.monotonic())["t"].tokens  # type: ignore[union-attr]


@pytest.fixture
def bob() -> Iterator[None]:
    """Whoever asks, asks by bob's token."""
    before = ASKER.set(Grant(token_id="t", name="bob", scopes=("infer",), issued_at_s=0, expires_at_s=1))
    yield
    ASKER.reset(before)


def admit(node: ClusterNode) -> Allowed | Limited:
    return node.dispatcher._limits.admit("t", Limits(tokens_per_minute=100), time.monotonic())  # type: ignore[union-attr]


@pytest.mark.usefixtures("bob")
async def test_what_an_answer_used_is_taken_out_of_its_askers_tokens(cluster) -> None:
    async with cluster([CountingNode()]) as nodes:
        before = admit(nodes[0])
        await answer(nodes[0])
        after = admit(nodes[0])
    assert (before, after) == (Allowed(tokens_left=100), Allowed(tokens_left=100 - 5 - WORDS))
    assert spent(nodes[0]) == 5 + WORDS


@pytest.mark.usefixtures("bob")
async def test_an_answer_that_was_broken_off_costs_what_came_and_its_prompt(cluster) -> None:
    prompt = Raw(prompt=tuple(range(30)))
    async with cluster([CountingNode()]) as nodes:
        admit(nodes[0])
        run = nodes[0].dispatcher.run(nodes[0].model, replace(JOB, prompt=prompt), LoadOptions())
        async with aclosing(run) as events:
            for came in range(1, 4):
                await anext(events)
                assert spent(nodes[0]) == came
        assert spent(nodes[0]) == 3 + 30


@pytest.mark.usefixtures("bob")
async def test_an_answer_that_goes_on_elsewhere_is_paid_for_once(cluster) -> None:
    async with cluster([CountingNode(), CountingNode(stop_after=7, failure=RunnerLost("tiny", "gone"))]) as nodes:
        await only_on(nodes, 1)
        admit(nodes[0])
        await answer(nodes[0])
        assert spent(nodes[0]) == 5 + WORDS


@pytest.mark.usefixtures("bob")
async def test_a_request_that_was_refused_costs_no_tokens(cluster) -> None:
    failed = JobFailed(Failed(job="", kind="context_exceeded", message="too long"))
    async with cluster([CountingNode(stop_after=0, failure=failed)]) as nodes:
        admit(nodes[0])
        with pytest.raises(JobFailed):
            await answer(nodes[0])
        assert spent(nodes[0]) == 0


@pytest.mark.usefixtures("bob")
async def test_embeddings_are_paid_for_also_when_nobody_waits_for_them(
    cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster([CountingNode()]) as nodes:
        node, job = nodes[0], EmbedJob(id="e", inputs=(tuple(range(20)), "four bytes a token"))
        admit(node)
        await node.dispatcher.embed(node.model, job, LoadOptions())
        assert spent(node) == 3
        reached = asyncio.Event()

        async def hang(*_: object) -> Embedded:
            reached.set()
            raise await asyncio.Future()

        monkeypatch.setattr(node.lan.serves, "embed", hang)
        waiting = asyncio.create_task(node.dispatcher.embed(node.model, job, LoadOptions()))
        await reached.wait()
        waiting.cancel()
        await asyncio.wait({waiting})
        assert spent(node) == 3 + 20 + 4


async def test_a_model_too_large_for_every_node_is_refused_with_what_was_needed(cluster, model: Model) -> None:
    async with cluster([CountingNode(), CountingNode()]) as nodes:
        await only_on(nodes)
        for node in nodes:
            inner = node.report_with
            node.lan.report_with = lambda report, inner=inner: replace(
                inner(report), ram=RamReport(total_bytes=1000, free_bytes=10)
            )
            node.tell()
        await until(lambda: all(seen.ram.free_bytes == 10 for n in nodes for seen in n.cluster.now.nodes.values()))
        with pytest.raises(DoesNotFit) as caught:
            await answer(nodes[0])
    assert caught.value.needed_bytes > caught.value.free_bytes


async def test_room_that_a_load_takes_twice_in_the_numbers_is_waited_for(cluster) -> None:
    async with cluster([CountingNode()]) as nodes:
        await only_on(nodes)
        inner = nodes[0].report_with
        taken = {WeightsDigest("sha256:" + "2" * 64): 1 << 32}
        nodes[0].lan.report_with = lambda report: replace(inner(report), loading=taken)
        nodes[0].tell()
        waiting = asyncio.create_task(answer(nodes[0]))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        nodes[0].lan.report_with = inner
        nodes[0].tell()
        assert text_of(await waiting) == whole_text()


async def test_what_has_ended_since_a_nodes_report_is_not_counted_there(cluster, model: Model) -> None:
    async with cluster([CountingNode(pause_s=0)]) as nodes:
        # Reports would forget it as well.
        nodes[0].cluster.take_own = lambda *_: None
        await answer(nodes[0])
        key = nodes[0].lan.id, WeightsDigest(str(model.weights_digest))
        assert nodes[0].cluster.now.sent[key] == (0, 0)


async def test_an_error_between_machines_names_them_as_people_do(cluster) -> None:
    async with cluster([CountingNode(stop_after=0, failure=Closing()), CountingNode()]) as nodes:
        far = nodes[1].lan
        serves = CountingNode(stop_after=0, failure=ModelNotThere(far.id, "tiny"))
        nodes[0].dispatcher._remote = lambda node: serves
        await only_on(nodes, 1)
        nodes[0].dispatcher.give_up()
        with pytest.raises(Unserved, match=f": node {far.identity.node_name} does not have model 'tiny'"):
            await answer(nodes[0])


async def test_a_request_that_nobody_may_take_says_so(cluster) -> None:
    async with cluster([CountingNode()]) as nodes:
        inner = nodes[0].report_with
        nodes[0].lan.report_with = lambda report: replace(inner(report), state="draining")
        nodes[0].tell()
        with pytest.raises(Unserved):
            await answer(nodes[0])


async def test_where_requests_go_and_why_they_go_on_is_counted(cluster, model: Model) -> None:
    serves = [CountingNode(), CountingNode(stop_after=7, failure=RunnerLost("tiny", "it crashed"))]
    async with cluster(serves) as nodes:
        await only_on(nodes, 1)
        name, target = str(model.name), nodes[1].lan.identity.node_name
        count = nodes[0].dispatcher._telemetry.metrics.registry.get_sample_value
        await answer(nodes[0])
        sent = count("ayni_routes_total", {"model": name, "target": target, "kind": "resident"})
        assert sent == len(serves[1].asked)
        resumed = count("ayni_resumes_total", {"model": name, "reason": "RunnerLost"})
        assert resumed == len(serves[0].asked) + len(serves[1].asked) - 1
        for node in nodes:
            inner = node.report_with
            node.lan.report_with = lambda report, inner=inner: replace(inner(report), state="draining")
            node.tell()
        await until(lambda: all(seen.state == "draining" for seen in nodes[0].cluster.now.nodes.values()))
        with pytest.raises(Unserved):
            await answer(nodes[0])
        assert count("ayni_route_refusals_total", {"model": name, "reason": "no_node"}) == 1


async def test_each_attempt_carries_the_trace_of_the_request(cluster) -> None:
    serves = [CountingNode(stop_after=7, failure=RunnerLost("tiny", "it crashed")), CountingNode()]
    trace = new_traceparent()
    async with cluster(serves) as nodes:
        await only_on(nodes, 0, 1)
        await answer(nodes[0], replace(JOB, trace=trace))
    asked = [*serves[0].asked, *serves[1].asked]
    assert len(asked) > 0
    assert {job.trace for job in asked} == {trace}
