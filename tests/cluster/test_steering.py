"""What people have a cluster do, and what they are told where it can't be done."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.cluster.asking import OWN_TEMPLATE
from tests.cluster.real_nodes import RealNode, await_all_up, form, real_nodes, until
from tests.support.tiny_gguf import write_tiny_llama

pytestmark = pytest.mark.timeout(120)


def refused(node: RealNode, method: str, path: str, body: object = None) -> tuple[int, str]:
    """The status and the words of a request that must fail."""
    answer = httpx.request(method, f"{node.url}{path}", json=body, headers=node.own_user, timeout=30)
    assert answer.status_code >= 400, answer.text
    return answer.status_code, answer.json()["error"]


def pinned_on(node: RealNode) -> set[str]:
    """Where anything is pinned, as this node sees it."""
    return {name for name, each in node.nodes().items() if any(model["pinned"] for model in each["resident"])}


@pytest.fixture
def renamed(cluster: list[RealNode]) -> Iterator[RealNode]:
    """The last node, to be started with another name; it has its own again afterwards."""
    last = cluster[2]
    yield last
    last.stop()
    del last.settings["AYNI_NODE_NAME"]
    last.start()
    await_all_up(cluster)


@pytest.fixture
def lost(cluster: list[RealNode]) -> Iterator[RealNode]:
    """The last node, switched off; it is back afterwards."""
    last = cluster[2]
    last.kill()
    until(lambda: cluster[0].states()["c"] == "lost", what="the notice of its loss")
    yield last
    last.start()
    await_all_up(cluster)


def test_a_name_that_is_set_later_counts_and_may_have_a_slash(cluster: list[RealNode], renamed: RealNode) -> None:
    a = cluster[0]
    renamed.stop()
    renamed.settings["AYNI_NODE_NAME"] = "attic/left"
    renamed.start()
    until(lambda: a.states().get("attic/left") == "up", what="the new name")
    for drained in (True, False):
        a.ask("POST", f"/api/cluster/nodes/{quote('attic/left', safe='')}/drain", {"drain": drained})
    assert refused(a, "DELETE", f"/api/cluster/nodes/{quote('cellar/right', safe='')}") == (
        404,
        "no such node: cellar/right",
    )
    a.ask("POST", "/api/cluster/tokens", {"name": "team/anna"})
    a.ask("DELETE", f"/api/cluster/tokens/{quote('team/anna', safe='')}")
    assert [token["revoked"] for token in a.ask("GET", "/api/cluster/tokens")["tokens"] if "/" in token["name"]] == [
        True
    ]


def test_a_machine_is_not_removed_by_itself(cluster: list[RealNode]) -> None:
    status, words = refused(cluster[0], "DELETE", "/api/cluster/nodes/a")
    assert (status, "ayni cluster leave" in words) == (409, True)
    assert cluster[0].ask("GET", "/api/cluster")["active"] is True


def test_a_machine_that_is_lost_is_not_waited_for(cluster: list[RealNode], lost: RealNode) -> None:
    a = cluster[0]
    began_s = time.monotonic()
    for path, body in (("nodes/c/drain", {"drain": True}), ("pins", {"model": "demo", "nodes": ["b", "c"]})):
        status, words = refused(a, "POST", f"/api/cluster/{path}", body)
        assert (status, words.startswith("'c' can't be reached (")) == (502, True), words
    assert time.monotonic() - began_s < 4, "two attempts to connect would take ten seconds"
    assert not pinned_on(a)
    shown = a.nodes()["c"]
    assert [shown[key] for key in ("head", "devices", "ram_total_bytes", "resident")] == [False, [], 0, []]
    assert "demo:latest" in shown["models"]


@pytest.fixture
def big(cluster: list[RealNode], tmp_path: Path) -> Iterator[str]:
    """A model on the first node whose own context takes more memory than any machine of today has."""
    a = cluster[0]
    file = write_tiny_llama(tmp_path / "big.gguf", context=1 << 30)
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    httpx.post(f"{a.url}/api/blobs/{digest}", content=file.read_bytes(), timeout=30).raise_for_status()
    parameters = {"num_ctx": 1 << 30}
    body = {"model": "big", "files": {"big.gguf": digest}, "parameters": parameters, "stream": False}
    a.ask("POST", "/api/create", body)
    until(lambda: "big:latest" in a.nodes()["a"]["models"], what="the report of the model")
    yield "big"
    a.ask("DELETE", "/api/cluster/pins/big")
    a.ask("DELETE", "/api/delete", {"model": "big"})


def test_explaining_and_pinning_go_by_the_models_own_parameters(cluster: list[RealNode], big: str) -> None:
    a = cluster[0]
    explained = a.ask("POST", "/api/cluster/explain", {"model": big})
    assert explained["node"] is None
    assert "it fits nowhere" in explained["reason"]
    assert a.ask("POST", "/api/cluster/explain", {"model": big, "num_ctx": 2048})["node"] is not None
    status, words = refused(a, "POST", "/api/cluster/pins", {"model": big})
    assert (status, "it fits nowhere" in words) == (409, True)
    status, words = refused(a, "POST", "/api/cluster/pins", {"model": big, "nodes": ["a"]})
    assert status == 409
    assert words.startswith("'a' can't keep model 'big:latest': model 'big:latest' requires more system memory (")
    assert a.ask("POST", "/api/cluster/explain", {"model": big})["node"] is None


def test_a_pin_says_where_it_was_made_and_where_not(cluster: list[RealNode]) -> None:
    a = cluster[0]
    a.ask("POST", "/api/create", {"model": "only-on-a", "from": "demo", "template": OWN_TEMPLATE, "stream": False})
    try:
        status, words = refused(a, "POST", "/api/cluster/pins", {"model": "only-on-a", "nodes": ["a", "b"]})
        assert (status, words) == (
            409,
            "'b' can't keep model 'only-on-a:latest': it is not stored there; it is pinned on a",
        )
        until(lambda: pinned_on(a) == {"a"}, what="the pin")
    finally:
        a.ask("DELETE", "/api/cluster/pins/only-on-a")
        a.ask("DELETE", "/api/delete", {"model": "only-on-a"})


def test_a_token_whose_name_is_too_long_is_told_so_in_words(cluster: list[RealNode]) -> None:
    status, words = refused(cluster[0], "POST", "/api/cluster/tokens", {"name": "x" * 129})
    assert (status, words) == (400, "name: String should have at most 128 characters")


def test_every_node_that_could_answer_is_among_the_candidates(cluster: list[RealNode]) -> None:
    explained = cluster[1].ask("POST", "/api/cluster/explain", {"model": "demo"})
    assert {candidate["node"] for candidate in explained["candidates"]} == {"a", "b", "c"}
    assert [line.split()[0] for line in explained["lines"][1:]] == [each["node"] for each in explained["candidates"]]


def test_who_leaves_is_told_whether_anybody_knows(tmp_path: Path) -> None:
    with real_nodes(tmp_path, 2) as (a, b):
        form([a, b])
        assert b.ask("DELETE", "/api/cluster") == {"member": False, "active": False, "reason": "", "told": True}
        until(lambda: a.states() == {"a": "up"}, what="its leaving")
        assert "was removed" not in b.log
        line = a.ask("POST", "/api/cluster/invitations", {})["invitation"]
        b.ask("POST", "/api/cluster/join", {"invitation": line})
        await_all_up([a, b])
        a.kill()
        until(lambda: b.states()["a"] == "lost", what="the notice of its loss")
        assert b.ask("DELETE", "/api/cluster")["told"] is False
        assert "no other machine of the cluster can be reached" in b.log
        b.ask("POST", "/api/cluster", {"name": "own"})
        assert b.ask("DELETE", "/api/cluster")["told"] is True
        assert "root key" not in b.log


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[RealNode]:
    """One daemon that is the only member of its cluster."""
    with real_nodes(tmp_path, 1) as (node,):
        node.ask("POST", "/api/cluster", {"name": "home"})
        yield node


def test_a_machine_that_nobody_can_reach_invites_nobody(lone: RealNode) -> None:
    lone.stop()
    lone.settings |= {"AYNI_LAN_HOST": "", "AYNI_INTERFACES": "nosuch0"}
    lone.start()
    until(lambda: lone.ask("GET", "/api/cluster")["active"], what="its return")
    status, words = refused(lone, "POST", "/api/cluster/invitations", {})
    assert (status, words) == (409, "this machine has no network; see the settings lan_host and interfaces")
    assert "the setting interfaces" in lone.ask("GET", "/api/cluster/discover")["reason"]
    assert lone.ask("GET", "/api/cluster")["ray"] == {"state": "off", "reason": "by the setting ray"}


def test_a_machine_that_cannot_return_to_its_cluster_names_the_setting(lone: RealNode) -> None:
    def status() -> Any:
        return lone.ask("GET", "/api/cluster")

    lone.stop()
    with socket.create_server((lone.host, lone.lan_port)):
        lone.start()
        until(lambda: "see the setting lan_port" in status()["reason"], what="the reason")
        assert status()["reason"].startswith(f"the LAN port {lone.lan_port} can't be opened (")
    until(lambda: status()["active"], what="its return")
    lone.stop()
    lone.settings["AYNI_LAN_HOST"] = "198.18.77.1"
    lone.start()
    until(lambda: "see the setting lan_host" in status()["reason"], what="the reason")
