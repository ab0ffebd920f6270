"""A node that drains or is told to stop gives away what it does, and no answer loses or repeats a word."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.asking import OWN_TEMPLATE, loaded_on, only_loaded_on
from tests.cluster.real_nodes import RealNode, await_all_up, until
from tests.cluster.streams import LONG, Stream

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def stopped(cluster: list[RealNode]) -> Iterator[RealNode]:
    """The first node, to be stopped; it is back afterwards."""
    first = cluster[0]
    yield first
    assert first.process is not None
    if first.process.poll() is not None:
        first.start()
    await_all_up(cluster)


@pytest.fixture
def drained(cluster: list[RealNode]) -> Iterator[RealNode]:
    """The first node, to be drained; it takes work afterwards."""
    first = cluster[0]
    yield first
    first.ask("POST", "/api/cluster/nodes/a/drain", {"drain": False})
    await_all_up(cluster)


@pytest.fixture
def token(cluster: list[RealNode]) -> str:
    return str(cluster[0].ask("POST", "/api/cluster/tokens", {"name": "reader", "scopes": ["infer"]})["token"])


def active_on(node: RealNode) -> int:
    return sum(model["active"] + model["queued"] for model in node.nodes()[node.name]["resident"])


def test_a_drained_node_gives_away_what_it_does_for_others_and_for_its_own_clients(
    cluster: list[RealNode], drained: RealNode
) -> None:
    _, b, _ = cluster
    only_loaded_on(drained, cluster)
    streams = [Stream(drained, numbers=450).await_text(), Stream(b, numbers=450).await_text()]
    until(lambda: active_on(drained) == 2, what="both answers on one node")
    b.ask("POST", "/api/cluster/nodes/a/drain", {"drain": True})
    until(lambda: active_on(drained) == 0, 30, "handing over")
    assert all(stream.is_alive() for stream in streams), "it only waited for their end"
    for stream in streams:
        assert stream.whole()["ayni"]["resumed"] == 1
    # It was loaded on another node first, and is in this one's memory still, for when it takes work again.
    assert len(loaded_on(b, "demo:latest")) == 2


def test_what_only_the_drained_node_can_do_is_done_there(cluster: list[RealNode], drained: RealNode) -> None:
    _, b, _ = cluster
    only_loaded_on(drained, cluster)
    drained.ask(
        "POST", "/api/create", {"model": "only-here", "from": "demo", "template": OWN_TEMPLATE, "stream": False}
    )
    until(lambda: "only-here:latest" in b.nodes()["a"]["models"], what="the report of the model")
    own, others = Stream(drained, model="only-here"), Stream(b, model="only-here")
    moved = Stream(drained, numbers=450)
    for stream in (own, others, moved):
        stream.await_text()
    b.ask("POST", "/api/cluster/nodes/a/drain", {"drain": True})
    assert moved.whole()["ayni"]["resumed"] == 1
    for stream in (own, others):
        assert "ayni" not in stream.whole()
    refused = httpx.post(f"{b.url}/api/chat", json=LONG | {"model": "only-here"}, timeout=10)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    drained.ask("DELETE", "/api/delete", {"model": "only-here"})


def test_an_answer_is_finished_where_it_is_when_all_machines_are_drained_at_once(cluster: list[RealNode]) -> None:
    a, b, _ = cluster
    only_loaded_on(b, cluster)
    answers = [Stream(b), Stream(a)]
    for answer in answers:
        answer.await_text()
    try:
        for node in cluster:
            node.ask("POST", f"/api/cluster/nodes/{node.name}/drain", {"drain": True})
        for answer in answers:
            answer.whole()
    finally:
        for node in cluster:
            node.ask("POST", f"/api/cluster/nodes/{node.name}/drain", {"drain": False})
        await_all_up(cluster)


@pytest.mark.parametrize("loaded_elsewhere", [True, False])
def test_a_node_that_is_told_to_stop_gives_away_everything_and_passes_on_until_its_clients_have_it_all(
    cluster: list[RealNode], stopped: RealNode, token: str, loaded_elsewhere: bool
) -> None:
    a, b, c = cluster
    only_loaded_on(a, cluster)
    streams = [Stream(a, numbers=350), Stream(a, numbers=350, token=token), Stream(b, numbers=350)]
    until(lambda: active_on(a) == 3, what="all answers on one node")
    if loaded_elsewhere:
        c.ask("POST", "/api/cluster/pins", {"model": "demo", "nodes": ["c"]})
        until(lambda: loaded_on(b, "demo:latest") == {"a", "c"}, what="a second copy")
        c.ask("DELETE", "/api/cluster/pins/demo")
    assert a.process is not None
    a.process.terminate()
    until(lambda: b.states()["a"] != "up", what="the word that it takes nothing new")
    for stream in streams:
        stream.whole()
    assert a.process.wait(90) == 0
    assert [stream.last["ayni"]["resumed"] for stream in streams] == [1, 1, 1]


def test_a_node_that_stops_takes_nothing_new(cluster: list[RealNode], stopped: RealNode, token: str) -> None:
    a, _, c = cluster
    running = Stream(a, token=token).await_text()
    with httpx.Client(
        verify=ssl.create_default_context(cafile=a.ca), headers={"authorization": f"Bearer {token}"}
    ) as client:
        assert client.get(f"{a.lan_url}/api/tags").status_code == 200
        assert a.process is not None
        a.process.terminate()
        until(lambda: c.states()["a"] != "up", what="the word that it takes nothing new")
        assert client.get(f"{a.lan_url}/api/tags").status_code == 503
    running.whole()
    assert a.process.wait(90) == 0
