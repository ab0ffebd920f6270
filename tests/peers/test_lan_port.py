"""Strangers at the LAN port: their connections are short and few, what they send is bounded, others do not notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from api import lan
from api.bounded_http import MAX_HEAD_BYTES, MAX_PIPELINED
from node.identity import Identity, issue_token, unchecked_context
from registry import ModelStore
from tests.api.scripted_node import ScriptedNode
from tests.peers.lan_nodes import LanNode, lan_nodes

LIMIT_S = 10.0
OPEN = b"GET /ca.pem HTTP/1.1\r\nHost: x\r\n\r\n"


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def dial(cls, stack: AsyncExitStack, node: LanNode, *, local: str = "127.0.0.21", tls: bool = True) -> Client:
        port, context = int(node.address.rpartition(":")[2]), unchecked_context() if tls else None
        reader, writer = await asyncio.open_connection(node.host, port, ssl=context, local_addr=(local, 0))
        stack.callback(writer.transport.abort)
        return cls(reader, writer)

    def send(self, *data: bytes) -> None:
        self._writer.write(b"".join(data))

    async def status(self) -> int:
        """Of the next answer, whose body is read too."""
        async with asyncio.timeout(LIMIT_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            await self._reader.readexactly(length)
        return int(head.split()[1])

    async def ended(self) -> bytes:
        """What still came before the other side closed the connection."""
        async with asyncio.timeout(LIMIT_S):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""


class Port:
    """The first of two members, and connections to it."""

    def __init__(self, nodes: list[LanNode], stack: AsyncExitStack) -> None:
        self.node, self.other = nodes
        self._stack = stack

    async def dial(self, **how: Any) -> Client:
        return await Client.dial(self._stack, self.node, **how)

    def token_lines(self) -> bytes:
        return b"GET /api/tags HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token(self.node.identity) + b"\r\n\r\n"


def token(identity: Identity) -> bytes:
    root = identity.need_root()
    return issue_token(root, "bob", scopes=["infer"], lifetime_s=60, now_s=time.time()).text.encode()


@pytest.fixture
async def port(tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Port]:
    monkeypatch.setattr(lan, "HANDSHAKE_LIMIT_S", 60.0)  # no test waits for that
    async with (
        lan_nodes(tmp_path, [ScriptedNode(), ScriptedNode()], [store, store]) as nodes,
        AsyncExitStack() as stack,
    ):
        yield Port(nodes, stack)


@pytest.mark.parametrize("before", [b"", OPEN], ids=["first", "second"])
@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n"], ids=["letter", "lines", "nothing"])
async def test_a_head_that_does_not_end_ends_the_connection(
    port: Port, monkeypatch: pytest.MonkeyPatch, before: bytes, part: bytes
) -> None:
    monkeypatch.setattr(lan, "HEAD_LIMIT_S", 0.1)
    client = await port.dial()
    if before:
        client.send(before)
        assert await client.status() == 200
    client.send(part)
    assert await client.ended() == b""


async def test_the_rest_of_a_refused_body_is_not_waited_for(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "HEAD_LIMIT_S", 0.1)
    client = await port.dial()
    client.send(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    assert await client.status() == 401
    client.send(b"{")
    assert await client.ended() == b""


async def test_the_rest_of_a_body_may_follow_the_answer_to_who_has_a_token(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lan, "HEAD_LIMIT_S", 0.1)
    known = await port.dial()
    known.send(port.token_lines().replace(b"GET", b"POST", 1)[:-2], b"Content-Length: 4\r\n\r\nx")
    assert await known.status() == 200
    known.send(b"x")
    stranger = await port.dial()
    stranger.send(b"G")
    assert await stranger.ended() == b""
    known.send(b"xx", port.token_lines())
    assert await known.status() == 200


async def test_an_idle_stranger_is_closed_before_who_has_a_token(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "STRANGER_IDLE_S", 0.1)
    known, stranger = await port.dial(), await port.dial()
    known.send(port.token_lines())
    assert await known.status() == 200
    stranger.send(OPEN)
    assert await stranger.status() == 200
    assert await stranger.ended() == b""
    known.send(port.token_lines())
    assert await known.status() == 200
    known.send(OPEN)  # without the token it is one of the others
    assert await known.status() == 200
    assert await known.ended() == b""


@pytest.mark.parametrize("limit", ["MAX_STRANGERS", "MAX_STRANGERS_AT_ADDRESS"])
async def test_connections_without_a_handshake_are_strangers_too(
    port: Port, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(lan, limit, 3)
    strangers = [await port.dial(tls=False) for _ in range(6)]
    for stranger in strangers[:3]:
        assert await stranger.ended() == b""
    client = await port.dial()
    client.send(OPEN)
    assert await client.status() == 200
    assert port.other.membership.is_up(port.node.id)


@pytest.mark.parametrize("limit", ["MAX_STRANGERS", "MAX_STRANGERS_AT_ADDRESS"])
async def test_many_strangers_close_each_others_connections_and_nobody_elses(
    port: Port, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(lan, limit, 3)
    known = await port.dial()
    known.send(port.token_lines())
    assert await known.status() == 200
    strangers = [await port.dial() for _ in range(6)]
    for stranger in strangers:
        stranger.send(b"G")
    for stranger in strangers[:3]:
        assert await stranger.ended() == b""
    known.send(port.token_lines())
    assert await known.status() == 200
    strangers[5].send(OPEN[1:])
    assert await strangers[5].status() == 200
    assert port.other.membership.is_up(port.node.id)


async def test_strangers_at_one_address_do_not_close_those_at_another(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lan, "MAX_STRANGERS_AT_ADDRESS", 2)
    elsewhere = await port.dial(local="127.0.0.22")
    strangers = [await port.dial() for _ in range(4)]
    for stranger in strangers[:2]:
        assert await stranger.ended() == b""
    elsewhere.send(OPEN)
    assert await elsewhere.status() == 200


async def test_members_are_served_however_many_connections_there_are(
    tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lan, "MAX_CONNECTIONS", 1)
    async with (
        lan_nodes(tmp_path, [ScriptedNode(), ScriptedNode()], [store, store]) as nodes,
        AsyncExitStack() as stack,
    ):
        client = await Client.dial(stack, nodes[0])
        client.send(OPEN)
        assert await client.status() == 503
        assert all(node.membership.is_up(other.id) for node, other in (nodes, nodes[::-1]))


@pytest.mark.parametrize("line", [b"x: y\r\n", b"x"], ids=["many lines", "one line"])
async def test_a_head_without_end_is_refused_before_it_is_complete(port: Port, line: bytes) -> None:
    client = await port.dial()
    client.send(b"GET / HTTP/1.1\r\nx: ", line * (MAX_HEAD_BYTES // len(line) + 1))
    assert await client.status() == 431
    assert await client.ended() == b""


async def test_a_long_address_is_part_of_the_head(port: Port) -> None:
    client = await port.dial()
    client.send(b"GET /", b"x" * MAX_HEAD_BYTES)
    assert await client.status() == 431


async def test_a_body_may_be_longer_than_a_head_and_come_in_small_pieces(port: Port) -> None:
    client = await port.dial()
    client.send(b"POST /node/join HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.send(*[b"1\r\nx\r\n"] * 20_000, b"0\r\n\r\n")
    assert await client.status() == 400
    assert await client.ended() == b""


async def test_what_follows_a_body_is_bounded_too(port: Port) -> None:
    client = await port.dial()
    client.send(b"POST /node/join HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    client.send(b"x: y\r\n" * (MAX_HEAD_BYTES // 6 + 1))
    assert await client.ended() == b""


async def test_requests_ahead_of_an_answer_are_bounded(port: Port) -> None:
    client = await port.dial()
    client.send(*[OPEN] * MAX_PIPELINED)
    for _ in range(MAX_PIPELINED):
        assert await client.status() == 200
    client.send(*[OPEN] * (MAX_PIPELINED * 4))
    assert (await client.ended()).count(b"HTTP/1.1 200") < MAX_PIPELINED
