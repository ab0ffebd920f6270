"""The LAN port: nothing but two public pages answers without a credential, and a credential opens only its part."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import create_lan_app
from api.daemon import Daemon
from api.errors import OverLimit
from api.lan_gate import HEARSAY_S, LanGate, TokenRates, scope_of
from api.metered import METERED
from coordinator.limits import LimitTable
from node.asker import ASKER
from node.identity import Grant, Identity, NodeId, issue_token
from node.identity import Scope as TokenScope
from node.jobs import Delta, Event
from node.peers import PEER, Call, Caller, Endpoints, SharedModels
from node.report import TokenUse
from node.settings import Settings
from registry import ModelStore
from tests.api.scripted_node import ScriptedNode
from tests.peers.lan_nodes import identities, lan_nodes

OPEN = {("GET", "/"), ("HEAD", "/"), ("GET", "/ca.pem"), ("HEAD", "/ca.pem")}
PEER_ID = NodeId("00112233445566aa")


class Door:
    """The gate before the whole application, asked without sockets; `peer` is who TLS says is there."""

    def __init__(self, folder: Path, store: ModelStore) -> None:
        self.node = ScriptedNode()
        self.node.say(Delta(job="", text="Hello", tokens=(1,)))
        self.identity, self.other = identities(folder, 1)[0], identities(folder / "other", 1)[0]
        settings = Settings(models_dir=folder / "models", state_dir=folder / "state")
        self.app: FastAPI = create_lan_app(
            Daemon(store=store, node=self.node, settings=settings, version="0", bound_host="0.0.0.0")
        )
        self.calls = {name: Call(dict, self._answer) for name in ("beat", "ledger", "drain")}
        self.calls["join"] = Call(dict, self._answer, open_to_strangers=True)
        self.endpoints = Endpoints(self.node, SharedModels(store), self.calls)
        self.peer: NodeId | None = None
        self.asked_by: list[Grant | None] = []
        self.gate = LanGate(
            self._watched(self.app),
            self.endpoints,
            ca_pem=self.identity.anchor.ca_pem,
            verifier=self.identity.token_verifier(),
            removal_of=self.identity.ledger.removal_of,
            admit=TokenRates(LimitTable()),
        )

    async def ask(self, method: str, path: str, token: str | None = None, **extra: object) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        headers |= dict(extra.pop("headers", {}))  # type: ignore[call-overload]
        transport = httpx.ASGITransport(app=self._from_tls, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://192.168.1.5:11435") as client:
            return await client.request(method, path, headers=headers, **extra)  # type: ignore[arg-type]

    def token(self, *scopes: TokenScope, by: Identity | None = None, **limits: object) -> str:
        root = (by or self.identity).need_root()
        issued = issue_token(root, "bob", scopes=scopes, lifetime_s=60, now_s=time.time(), **limits)  # type: ignore[arg-type]
        return issued.text

    async def _from_tls(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[PEER] = self.peer
        await self.gate(scope, receive, send)

    def _watched(self, app: ASGIApp) -> ASGIApp:
        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            self.asked_by.append(ASKER.get())
            await app(scope, receive, send)

        return watched

    async def _answer(self, caller: Caller, request: object) -> dict[str, str]:
        return {"caller": str(caller.node)}

    def routes(self) -> Iterator[tuple[str, str]]:
        for route in _leaves(self.app.routes):
            path = route.path.replace("{digest}", "sha256:" + "0" * 64).replace("{path:path}", "x")
            for method in route.methods:
                yield method, path.replace("{model:path}", "tiny").replace("{model}", "tiny")


def _leaves(routes: Iterable[object]) -> Iterator[APIRoute]:
    """Every route, those of included routers too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        else:
            inner = getattr(route, "original_router", route)
            yield from _leaves(inner.routes)  # type: ignore[attr-defined]


@pytest.fixture
def door(tmp_path: Path, store: ModelStore) -> Door:
    return Door(tmp_path, store)


async def test_no_route_answers_without_a_credential_but_the_two_public_pages(door: Door) -> None:
    asked = {*door.routes(), ("GET", "/ca.pem"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json")}
    asked |= {("GET", "/nothing/here"), ("POST", "/node/link"), ("POST", "/v2/x/blobs/uploads/"), ("GET", "//api/tags")}
    asked |= {("POST", f"/node/{name}") for name in door.calls if name != "join"}
    assert len(asked) > 25
    for method, path in asked - OPEN:
        response = await door.ask(method, path)
        assert (response.status_code, response.headers.get("www-authenticate")) == (401, "Bearer"), (method, path)
    assert [grant for grant in door.asked_by if grant] == []
    assert not door.node.jobs


@pytest.mark.parametrize(("method", "path"), sorted(OPEN))
async def test_the_public_pages_answer_anyone(door: Door, method: str, path: str) -> None:
    response = await door.ask(method, path)
    assert response.status_code == 200
    if path == "/ca.pem" and method == "GET":
        assert response.content == door.identity.anchor.ca_pem


async def test_a_token_opens_the_paths_of_its_scope_and_no_others(door: Door) -> None:
    tokens = {scope: door.token(scope) for scope in ("infer", "models", "metrics", "admin")}
    assert ("GET", "/metrics") in {*door.routes()}
    for method, path in {*door.routes()} - OPEN:
        needed = scope_of(path)
        for scope, token in tokens.items():
            response = await door.ask(method, path, token)
            allowed = scope in (needed, "admin")
            assert (response.status_code == 403) is not allowed, (method, path, scope, response.text)
            assert response.status_code != 401


def test_a_path_that_is_in_no_table_takes_the_highest_scope() -> None:
    assert scope_of("/api/cluster/nodes") == "admin"
    assert scope_of("/metrics") == "metrics"
    assert scope_of("/api/generateX") == "admin"
    assert scope_of("/api/chat") == "infer"
    assert scope_of("/v1/models/llama3") == "infer"
    assert scope_of("/api/blobs/sha256:00") == "models"
    assert {scope_of(path) for path in METERED} == {"infer"}


async def test_no_token_opens_what_is_for_nodes(door: Door) -> None:
    token = door.token("admin")
    for name in ("link", "beat", "ledger", "drain"):
        assert (await door.ask("POST", f"/node/{name}", token)).status_code == 401


async def test_a_node_certificate_opens_everything_until_the_node_is_removed(door: Door) -> None:
    door.peer = PEER_ID
    assert (await door.ask("GET", "/api/tags")).status_code == 200
    assert (await door.ask("POST", "/node/beat", content=b"\x80")).status_code == 200
    door.identity.remove_node(PEER_ID, now_s=time.time())
    assert (await door.ask("GET", "/api/tags")).status_code == 401
    assert (await door.ask("POST", "/node/beat", content=b"\x80")).status_code == 401
    assert (await door.ask("POST", "/node/join", content=b"\x80")).status_code == 401


async def test_a_header_can_not_stand_for_a_certificate(door: Door) -> None:
    headers = {PEER: PEER_ID, "x-forwarded-for": "127.0.0.1", "x-ayni-peer": PEER_ID}
    assert (await door.ask("GET", "/api/tags", headers=headers)).status_code == 401


async def test_joining_is_open_to_strangers_and_bounded(door: Door) -> None:
    assert (await door.ask("POST", "/node/join", content=b"\x80")).status_code == 200
    assert (await door.ask("POST", "/node/join", content=bytes(70_000))).status_code == 413
    assert (await door.ask("POST", "/node/join", content=b"\xc1")).status_code == 400


@pytest.mark.parametrize("kind", ["forged", "other cluster", "tampered", "nonsense", "empty", "expired", "none"])
async def test_a_token_that_does_not_count_is_refused_without_a_part_of_it_in_the_answer(door: Door, kind: str) -> None:
    good = door.token("admin")
    head, payload, signature = good.split(".")
    bad = {
        "forged": f"{head}.{payload}.{'A' * len(signature)}",
        "other cluster": door.token("admin", by=door.other),
        "tampered": f"{head}.{payload[:-4]}AAAA.{signature}",
        "nonsense": "hello",
        "empty": "",
        "expired": issue_token(
            door.identity.need_root(), "bob", scopes=["admin"], lifetime_s=1, now_s=time.time() - 5
        ).text,
        "none": f"eyJhbGciOiJub25lIn0.{payload}.",
    }[kind]
    response = await door.ask("GET", "/api/tags", bad)
    assert response.status_code == 401
    assert not bad or bad not in response.text
    assert (await door.ask("GET", "/api/tags", good)).status_code == 200


async def test_the_key_header_of_other_clients_works_and_two_different_credentials_do_not(door: Door) -> None:
    token, other = door.token("infer"), door.token("infer")
    assert (await door.ask("GET", "/api/tags", headers={"x-api-key": token})).status_code == 200
    assert (await door.ask("GET", "/api/tags", token, headers={"x-api-key": token})).status_code == 200
    assert (await door.ask("GET", "/api/tags", other, headers={"x-api-key": token})).status_code == 401


async def test_what_the_request_does_is_done_on_behalf_of_the_token(door: Door) -> None:
    await door.ask("GET", "/api/tags", door.token("infer"))
    assert [grant.name for grant in door.asked_by if grant] == ["bob"]
    assert ASKER.get() is None


async def test_the_log_names_who_asked(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    token = door.token("infer")
    await door.ask("POST", "/api/generate", token, json={"model": "tiny", "prompt": "hi"})
    assert " asker=bob " in caplog.text
    assert token not in caplog.text


async def test_the_rates_of_a_token_are_enforced_where_a_model_works_and_nowhere_else(door: Door) -> None:
    token = door.token("infer", requests_per_minute=2)
    body = {"model": "tiny", "prompt": "hi"}
    answers = [await door.ask("POST", "/api/generate", token, json=body) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert (await door.ask("GET", "/api/tags", token)).status_code == 200
    assert (await door.ask("POST", "/api/generate", door.token("infer"), json=body)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("limits", "most"), [({"max_parallel": 1}, 1), ({"max_parallel": 3}, 1), ({}, 5)])
async def test_the_answers_of_one_request_share_its_place(
    door: Door, stream: bool, limits: dict[str, int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    active, seen, run = 0, [], door.node.run

    async def watched(*asked: Any) -> AsyncIterator[Event]:
        nonlocal active
        active += 1
        seen.append(active)
        try:
            async with aclosing(run(*asked)) as events:
                async for event in events:
                    await asyncio.sleep(0)
                    yield event
        finally:
            active -= 1

    monkeypatch.setattr(door.node, "run", watched)
    body = {"model": "tiny", "prompt": ["a", "b", "c", "d", "e"], "stream": stream}
    answer = await door.ask("POST", "/v1/completions", door.token("infer", **limits), json=body)
    assert (answer.status_code, answer.text.count("Hello")) == (200, 5)
    assert (len(seen), max(seen)) == (5, most)


ONE_AT_A_TIME = Grant(token_id="t", name="bob", scopes=("infer",), issued_at_s=0, expires_at_s=1, max_parallel=1)


async def test_a_place_is_given_back_however_the_request_ends() -> None:
    rates = TokenRates(LimitTable())

    async def break_off() -> None:
        async with rates(ONE_AT_A_TIME):
            with pytest.raises(OverLimit):
                async with rates(ONE_AT_A_TIME):
                    pass
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await break_off()
    async with rates(ONE_AT_A_TIME):
        pass


async def test_a_place_taken_on_another_node_is_waited_for_as_long_as_its_word_is_on_its_way() -> None:
    table, other = LimitTable(), NodeId("b" * 16)
    words = iter([{"t": TokenUse(1, 0, 1)}, {"t": TokenUse(1, 0, 0)}])
    waits: list[float] = []

    async def heard(limit_s: float) -> None:
        waits.append(limit_s)
        table.heard(other, next(words), time.monotonic())

    table.heard(other, {"t": TokenUse(1, 0, 1)}, time.monotonic())
    async with TokenRates(table, heard)(ONE_AT_A_TIME):
        assert len(waits) == 2
        assert waits[1] <= waits[0] <= HEARSAY_S
        # What runs here is known for sure.
        with pytest.raises(OverLimit):
            async with TokenRates(table, heard)(ONE_AT_A_TIME):
                pass


async def test_a_place_that_stays_taken_on_another_node_is_refused_in_the_end() -> None:
    table = LimitTable()
    table.heard(NodeId("b" * 16), {"t": TokenUse(1, 0, 1)}, time.monotonic())
    with pytest.raises(OverLimit):
        async with TokenRates(table, asyncio.sleep)(ONE_AT_A_TIME):
            pass


@pytest.fixture
async def stranger() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_over_tls_a_stranger_sees_the_public_page_and_nothing_else(
    tmp_path: Path, store: ModelStore, stranger: aiohttp.ClientSession
) -> None:
    import ssl

    async with lan_nodes(tmp_path, [ScriptedNode()], [store]) as (node,):
        trusting = ssl.create_default_context(cadata=node.identity.anchor.ca_pem.decode())
        async with stranger.get(f"https://{node.address}/", ssl=trusting) as response:
            assert response.status == 200
        async with stranger.post(f"https://{node.address}/node/link", ssl=trusting) as response:
            assert response.status == 401
        with pytest.raises(aiohttp.ClientError):
            await stranger.get(f"http://{node.address}/")
        old = ssl.create_default_context(cadata=node.identity.anchor.ca_pem.decode())
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(aiohttp.ClientError):
            await stranger.get(f"https://{node.address}/", ssl=old)
