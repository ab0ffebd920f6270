"""However and wherever an answer breaks, its client gets every token once, or an error, and never both wrong."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.cluster_view import ClusterView
from coordinator.dispatch import Dispatcher
from coordinator.footprints import Footprints
from coordinator.view import ResidentModel, WeightsDigest
from node.errors import Closing, NodeError, QueueFull, RunnerLost, Unserved
from node.identity import NodeId
from node.jobs import Chat, Delta, Done, Job, Message
from node.peers import ModelNotThere, PeerLost, PeerUnreachable
from node.report import HeldModel, ManifestDigest, NodeReport
from node.settings import Settings
from node.supervisor import LoadOptions
from registry import Digest, Model, ModelName
from tests.peers.counting_node import CountingNode, whole_text

NODES = [NodeId(name) for name in ("a", "b", "c", "d")]
DIGEST = Digest.of(b"model")
WORDS = 12
JOB = Job(id="ask", prompt=Chat(messages=(Message(role="user", content="count"),)), max_tokens=WORDS)
BREAKS: tuple[NodeError, ...] = (
    PeerLost("b", "cut"),
    PeerUnreachable("b", "refused", True),
    RunnerLost("m", "crashed"),
    Closing(),
    QueueFull(3, 4),
    ModelNotThere("b", "m"),
)


class StoredElsewhere:
    """A model of which only the name and the digest matter here."""

    name = ModelName.parse("m")
    digest = weights_digest = DIGEST


class KnownFootprints(Footprints):
    async def of(self, model: Model, options: LoadOptions, *, embedding: bool) -> None:
        return None


def cluster_of(nodes: dict[NodeId, CountingNode]) -> Dispatcher:
    view = ClusterView(NODES[0])
    digest = WeightsDigest(str(DIGEST))
    for node in nodes:
        resident = ResidentModel(
            digest=digest,
            manifest=ManifestDigest(digest),
            name="m",
            context_tokens=64,
            default_context=True,
            parallel=4,
        )
        held = HeldModel(digest=digest, manifest=ManifestDigest(digest), name="m", size_bytes=1, present_bytes=1)
        view.take_own(
            NodeReport(node=node, name=node, started_at=1.0, sequence=1, resident=(resident,), held=(held,)), 0
        )
    nothing = KnownFootprints(Settings(models_dir=Path("/nowhere"), state_dir=Path("/nowhere")))
    return Dispatcher(nodes[NODES[0]], nodes.__getitem__, view, nothing, wait_limit_s=0.0)


async def answer(dispatcher: Dispatcher) -> tuple[list[int], str, NodeError | None, bool]:
    tokens: list[int] = []
    text, done = "", False
    model = cast(Model, StoredElsewhere())
    try:
        async with asyncio.timeout(10), aclosing(dispatcher.run(model, JOB, LoadOptions())) as events:
            async for event in events:
                assert not done, "something came after the end"
                assert cast(Any, event).job == JOB.id
                if isinstance(event, Delta):
                    tokens += event.tokens
                    text += event.text
                done = isinstance(event, Done)
    except NodeError as error:
        return tokens, text, error, done
    return tokens, text, None, done


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, WORDS), st.sampled_from(BREAKS)) | st.none(), min_size=4, max_size=4),
)
def test_an_answer_is_whole_or_an_error_wherever_it_breaks(breaks: list[tuple[int, NodeError] | None]) -> None:
    nodes = {
        name: CountingNode(pause_s=0, stop_after=each[0] if each else None, failure=each[1] if each else None)
        for name, each in zip(NODES, breaks, strict=True)
    }
    tokens, text, error, done = asyncio.run(answer(cluster_of(nodes)))
    assert tokens == list(range(len(tokens)))
    assert text == whole_text(len(tokens))
    assert done is (error is None)
    if error is None:
        assert len(tokens) == WORDS
    else:
        # Only where nobody could go on: no node was sound.
        assert None not in breaks, error


async def test_once_given_up_the_first_failure_is_the_answer() -> None:
    nodes = {name: CountingNode(pause_s=0, stop_after=3, failure=PeerLost(name, "cut")) for name in NODES}
    dispatcher = cluster_of(nodes)
    dispatcher.give_up()
    tokens, _, error, _ = await answer(dispatcher)
    assert tokens == [0, 1, 2]
    assert isinstance(error, Unserved)
    assert sum(len(node.asked) for node in nodes.values()) == 1
