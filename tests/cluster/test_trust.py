"""Who may ask what on the LAN port of real daemons, and what joining, leaving and removing do."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path

import aiohttp
import httpx
import pytest

from api.app import create_lan_app
from api.daemon import Daemon
from node.identity import IdentityStore, Invitation, NodeId, NodeNames, Software
from node.peers import join_cluster
from node.peers.link import Link
from node.peers.wire import UnloadAsk, Unloaded
from node.settings import Settings
from node.supervisor import Supervisor
from registry import ModelStore
from tests.cluster.real_nodes import RealNode, await_all_up, until
from tests.cluster.streams import Stream

NODE_CALLS = ("beat", "hello", "ledger", "link", "model", "pin", "drain", "renew", "leave")


def client(node: RealNode, token: str = "") -> httpx.Client:
    """A program on another machine."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    context = ssl.create_default_context(cafile=str(node.ca))
    return httpx.Client(base_url=node.lan_url, verify=context, headers=headers, timeout=20)


def all_routes(folder: Path) -> list[tuple[str, str]]:
    settings = Settings(models_dir=folder / "models", state_dir=folder)
    store = ModelStore(settings.models_dir, cache_dir=settings.cache_dir)
    app = create_lan_app(Daemon(store=store, node=Supervisor(settings), settings=settings, version="0"))
    paths = app.openapi()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


@pytest.mark.filterwarnings("ignore:Duplicate Operation ID")  # GET and HEAD of one route; nobody asks for its schema
def test_nothing_answers_without_a_credential_but_the_root_and_the_certificate(
    cluster: list[RealNode], tmp_path: Path
) -> None:
    routes = all_routes(tmp_path)
    assert len(routes) > 30
    open_routes = set()
    with client(cluster[1]) as stranger:
        for method, path in routes:
            filled = re.sub(r"\{[^}]*\}", "x", path)
            if stranger.request(method, filled, json={} if method != "HEAD" else None).status_code != 401:
                open_routes.add((method, path))
        for path in ("/docs", "/openapi.json", "/metrics", "/v2/", "/console", "/api/unknown"):
            assert stranger.get(path).status_code == 401
        for name in NODE_CALLS:
            assert stranger.post(f"/node/{name}").status_code == 401
        assert stranger.post("/node/join").status_code == 400
        assert stranger.get("/ca.pem").content == cluster[1].ca.read_bytes()
    assert open_routes == {("GET", "/"), ("HEAD", "/")}


def test_a_token_opens_what_it_was_issued_for_on_every_node_until_it_is_revoked(cluster: list[RealNode]) -> None:
    a, b, c = cluster
    made = a.ask("POST", "/api/cluster/tokens", {"name": "bob", "scopes": ["infer"], "models": ["demo*"]})
    chat = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    for node in (a, b, c):
        with client(node, made["token"]) as bob:
            assert bob.get("/api/version").status_code == 200
            assert bob.delete("/api/delete").status_code == 403
            assert bob.get("/api/cluster/nodes").status_code == 403
            assert bob.post("/v1/chat/completions", json=chat | {"model": "other"}).status_code == 403
    with client(b, made["token"]) as bob:
        assert bob.post("/v1/chat/completions", json=chat).status_code == 200
    assert "bob" in [token["name"] for token in b.ask("GET", "/api/cluster/tokens")["tokens"]]
    with client(c, made["token"]) as bob:
        b.ask("DELETE", "/api/cluster/tokens/bob")
        until(lambda: bob.get("/api/version").status_code == 401, 2.0, "the revocation's arrival")
    keys = [node.own_user["authorization"].removeprefix("Bearer ") for node in (a, b, c)]
    assert len({*keys}) == 3
    assert not [secret for secret in (made["token"], *keys) if secret in a.log + b.log + c.log]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/copy", {"source": "hidden", "destination": "demo-copy"}),
        ("POST", "/api/copy", {"source": "demo", "destination": "hidden"}),
        ("POST", "/api/create", {"model": "demo-copy", "from": "hidden"}),
        ("POST", "/api/create", {"model": "hidden", "from": "demo"}),
        ("DELETE", "/api/delete", {"model": "hidden"}),
        ("DELETE", "/api/delete", {"model": "registry.ollama.ai/library/HIDDEN:latest"}),
        ("POST", "/api/show", {"model": "hidden"}),
    ],
)
def test_a_token_for_some_models_reaches_no_others_by_copying_making_or_deleting(
    cluster: list[RealNode], method: str, path: str, body: dict[str, str]
) -> None:
    a = cluster[0]
    a.ask("POST", "/api/copy", {"source": "demo", "destination": "hidden"})
    made = a.ask("POST", "/api/cluster/tokens", {"name": "some", "scopes": ["models", "infer"], "models": ["demo*"]})
    with client(a, made["token"]) as some:
        refused = some.request(method, path, json=body)
        assert (refused.status_code, "does not allow model 'hidden:latest'" in refused.text.lower()) == (403, True)
        assert some.post("/api/copy", json={"source": "demo", "destination": "demo-own"}).status_code == 200
        assert some.post("/api/create", json={"model": "demo-own", "from": "demo", "system": "x"}).status_code == 200
        assert some.request("DELETE", "/api/delete", json={"model": "demo-own"}).status_code == 200
        assert "demo-copy:latest" not in [model["name"] for model in some.get("/api/tags").json()["models"]]
    a.ask("DELETE", "/api/cluster/tokens/some")
    a.ask("DELETE", "/api/delete", {"model": "hidden"})


def test_an_answer_ends_when_its_token_is_revoked(cluster: list[RealNode]) -> None:
    a, b, _ = cluster
    answer = Stream(b, numbers=700, token=a.ask("POST", "/api/cluster/tokens", {"name": "eve"})["token"]).await_text()
    other = Stream(b, token=a.ask("POST", "/api/cluster/tokens", {"name": "carol"})["token"]).await_text()
    a.ask("DELETE", "/api/cluster/tokens/eve")
    until(lambda: answer.error, 5.0, "the end of the answer")
    assert not answer.last.get("done")
    other.whole()
    a.ask("DELETE", "/api/cluster/tokens/carol")


def test_a_tokens_rate_is_enforced(cluster: list[RealNode]) -> None:
    made = cluster[0].ask("POST", "/api/cluster/tokens", {"name": "slow", "rpm": 2})
    with client(cluster[0], made["token"]) as slow:
        answers = [slow.post("/api/generate", json={"model": "demo"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) > 0


def test_an_admin_token_manages_the_cluster_from_elsewhere(cluster: list[RealNode]) -> None:
    made = cluster[0].ask("POST", "/api/cluster/tokens", {"name": "root", "scopes": ["admin"]})
    with client(cluster[2], made["token"]) as admin:
        assert len(admin.get("/api/cluster/nodes").json()["nodes"]) == 3


@pytest.mark.parametrize("line", ["", "ayni-join-1.AAAA", "nonsense"])
def test_a_machine_of_a_cluster_or_with_a_bad_line_joins_nothing(cluster: list[RealNode], line: str) -> None:
    answer = httpx.post(
        f"{cluster[0].url}/api/cluster/join", json={"invitation": line}, headers=cluster[0].own_user, timeout=20
    )
    assert answer.status_code in {403, 409}
    assert answer.json()["error"]


def test_a_machine_that_left_or_was_removed_is_a_stranger_and_can_come_back_by_invitation(
    cluster: list[RealNode],
) -> None:
    a, b, c = cluster
    old_id = c.nodes()["c"]["id"]
    c.ask("DELETE", "/api/cluster")
    until(lambda: set(a.states()) == set(b.states()) == {"a", "b"}, what="its leaving")
    assert c.ask("GET", "/api/cluster") == {"member": False, "active": False, "reason": ""}
    assert not c.ca.exists()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{c.lan_url}/ca.pem", verify=False, timeout=2)
    assert c.ask("POST", "/api/generate", {"model": "demo"})["done"] is True
    line = b.ask("POST", "/api/cluster/invitations", {})["invitation"]
    assert c.ask("POST", "/api/cluster/join", {"invitation": line})["name"] == "home"
    await_all_up(cluster)
    assert c.nodes()["c"]["id"] != old_id
    again = httpx.post(f"{b.url}/api/cluster/join", json={"invitation": line}, headers=b.own_user, timeout=20)
    assert (again.status_code, "belongs to" in again.text or "member" in again.text) == (409, True)
    a.ask("DELETE", "/api/cluster/nodes/c")
    until(lambda: c.ask("GET", "/api/cluster")["member"] is False, what="the removed node's notice")
    assert c.ask("GET", "/api/cluster")["reason"] == "this machine was removed from the cluster"
    assert set(a.states()) == {"a", "b"}
    used = httpx.post(f"{c.url}/api/cluster/join", json={"invitation": line}, headers=c.own_user, timeout=20)
    assert used.status_code == 403
    fresh = a.ask("POST", "/api/cluster/invitations", {})["invitation"]
    c.ask("POST", "/api/cluster/join", {"invitation": fresh})
    await_all_up(cluster)


def test_a_machine_may_be_a_member_without_the_root_key(cluster: list[RealNode]) -> None:
    a, b, c = cluster
    c.ask("DELETE", "/api/cluster")
    plain = a.ask("POST", "/api/cluster/invitations", {"keeper": False})
    assert plain["keeper"] is False
    assert c.ask("POST", "/api/cluster/join", {"invitation": plain["invitation"]})["keeper"] is False
    await_all_up(cluster)
    assert not list(c.home.rglob("root.key"))
    assert list(a.home.rglob("root.key"))
    for method, path, body in (
        ("POST", "/api/cluster/invitations", {}),
        ("POST", "/api/cluster/tokens", {"name": "bob"}),
        ("DELETE", "/api/cluster/nodes/b", None),
        ("PATCH", "/api/cluster", {"name": "den"}),
    ):
        with pytest.raises(AssertionError, match=r"409 .* root key"):
            c.ask(method, path, body)
    made = b.ask("POST", "/api/cluster/tokens", {"name": "bob"})
    until(lambda: "bob" in [token["name"] for token in c.ask("GET", "/api/cluster/tokens")["tokens"]])
    with client(c, made["token"]) as bob:
        assert bob.post("/api/generate", json={"model": "demo"}).status_code == 200
    b.ask("DELETE", "/api/cluster/tokens/bob")
    c.ask("DELETE", "/api/cluster")
    until(lambda: set(a.states()) == set(b.states()) == {"a", "b"}, what="its leaving")
    line = b.ask("POST", "/api/cluster/invitations", {})["invitation"]
    assert c.ask("POST", "/api/cluster/join", {"invitation": line})["keeper"] is True
    await_all_up(cluster)


async def test_a_link_ends_with_its_nodes_membership_whatever_that_node_does(
    cluster: list[RealNode], tmp_path: Path
) -> None:
    a, b, _ = cluster
    line = a.ask("POST", "/api/cluster/invitations", {})["invitation"]
    identity, _ = await join_cluster(
        Invitation.parse(line),
        IdentityStore(tmp_path),
        node_name="silent",
        names=NodeNames.of(("127.0.0.14",)),
        software=Software(ayni=a.ask("GET", "/api/version")["ayni"]),
    )
    async with aiohttp.ClientSession() as session:
        # It never sends a beat, so b has no report of it.
        link = await Link.open(NodeId(b.nodes()["b"]["id"]), session, b.lan_url, identity.peer_context())
        assert await link.one(UnloadAsk(link.number(), "none"), Unloaded) == Unloaded(found=False)
        await asyncio.to_thread(a.ask, "DELETE", f"/api/cluster/nodes/{identity.node_id}")
        async with asyncio.timeout(5):
            await link.lost


def test_a_name_spreads(cluster: list[RealNode]) -> None:
    cluster[2].ask("PATCH", "/api/cluster", {"name": "den"})
    until(lambda: all(node.ask("GET", "/api/cluster")["name"] == "den" for node in cluster), 3.0)
    cluster[0].ask("PATCH", "/api/cluster", {"name": "home"})
    until(lambda: all(node.ask("GET", "/api/cluster")["name"] == "home" for node in cluster), 3.0)
