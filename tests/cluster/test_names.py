"""Clients reach a cluster by its name, `<cluster>.local`, as mDNS tells it; here on loopback addresses only."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.discovery import interfaces_in_use, open_discovery
from tests.cluster.real_nodes import ADDRESSES, RealNode, free_port, until


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
