"""Clients reach a cluster by its name, `<cluster>.local`, and members find each other, as mDNS tells it; here on
loopback addresses only. What mDNS tells is never believed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.discovery import Advert, interfaces_in_use, open_discovery
from node.identity import ClusterId, NodeId
from tests.cluster.real_nodes import ADDRESSES, RealNode, await_all_up, form, free_port, until


@pytest.fixture
def announced(tmp_path: Path) -> Iterator[list[RealNode]]:
    """Two daemons that announce themselves once they are members, each on its own address."""
    nodes = [
        RealNode(name, tmp_path / name, host, free_port(host), {"AYNI_DISCOVERY": "auto", "AYNI_INTERFACES": host})
        for name, host in zip("ab", ADDRESSES[:2], strict=True)
    ]
    try:
        yield [node.start() for node in nodes]
    finally:
        for node in nodes:
            if node.process is not None and node.process.poll() is None:
                node.kill()


def addresses_of(host: str) -> set[str]:
    """What a client on another address is told."""

    async def ask() -> set[str]:
        async with open_discovery(lambda: interfaces_in_use(("127.0.0.14",))) as client:
            return await client.resolve(f"{host}.", 2.0)

    return asyncio.run(ask())


@pytest.mark.timeout(120)
def test_a_cluster_is_found_by_its_name_and_by_its_new_name_when_it_is_renamed(announced: list[RealNode]) -> None:
    first, second = announced
    # Of its own, as tests may run beside each other.
    old, new = f"home-{secrets.token_hex(4)}", f"house-{secrets.token_hex(4)}"
    first.ask("POST", "/api/cluster", {"name": old})
    line = first.ask("POST", "/api/cluster/invitations", {})["invitation"]
    second.ask("POST", "/api/cluster/join", {"invitation": line})
    hosts = {first.host, second.host}
    assert until(lambda: addresses_of(f"{old}.local"), 30, "the cluster's name") < hosts
    second.ask("PATCH", "/api/cluster", {"name": new})
    assert until(lambda: addresses_of(f"{new}.local"), 30, "its new name") < hosts
    until(lambda: not addresses_of(f"{old}.local"), 30, "the end of its old name")


@pytest.mark.timeout(120)
async def test_who_only_announces_itself_is_called_but_becomes_no_member(announced: list[RealNode]) -> None:
    first, second = await asyncio.to_thread(clustered, announced)
    called = asyncio.Event()
    stranger = await asyncio.start_server(lambda _, writer: (called.set(), writer.close()), "127.0.0.14", 0)
    advert = Advert(
        node=NodeId("f" * 16),
        node_name="stranger",
        cluster=ClusterId(first.ask("GET", "/api/cluster")["id"]),
        cluster_name="home",
        port=stranger.sockets[0].getsockname()[1],
        fingerprint="f" * 64,
        version="0.1.0",
    )
    async with stranger, open_discovery(lambda: interfaces_in_use(("127.0.0.14",))) as discovery, asyncio.timeout(60):
        await discovery.announce(advert)
        await called.wait()
    for node in (first, second):
        assert set(await asyncio.to_thread(node.states)) == {"a", "b"}


@pytest.mark.timeout(120)
def test_members_whose_addresses_all_changed_find_each_other(announced: list[RealNode]) -> None:
    clustered(announced)
    for node in announced:
        node.kill()
        node.lan_port = free_port(node.host)
    for node in announced:
        node.start()
    await_all_up(announced)


def clustered(nodes: list[RealNode]) -> list[RealNode]:
    form(nodes)
    return nodes
