"""A cluster, a machine that joins it, and a stranger's cluster; time is a number."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from node.identity import (
    ClusterRoot,
    Identity,
    IdentityStore,
    Invitation,
    NodeKeys,
    NodeNames,
    PendingJoin,
    Software,
    accept_join_answer,
    make_join_request,
)

NOW_S = 1_800_000_000.0
SOFTWARE = Software(ayni="0.1.0", python="3.11.7", ray="2.60.0")
NAMES = NodeNames.of(("198.18.77.11", "fd00::11"), ("first.local",))

Handshake: TypeAlias = tuple[ssl.SSLObject, ssl.SSLObject]


@pytest.fixture
def now_s() -> float:
    return NOW_S


@pytest.fixture(scope="session")
def root() -> ClusterRoot:
    return ClusterRoot.create(now_s=NOW_S)


@pytest.fixture(scope="session")
def other_root() -> ClusterRoot:
    return ClusterRoot.create(now_s=NOW_S)


@dataclass
class World:
    """Makes members on disk, below one folder."""

    folder: Path
    software: Software = SOFTWARE

    def create(self, name: str = "home", node_name: str = "first", now_s: float = NOW_S) -> Identity:
        store = IdentityStore(self.folder / name / node_name)
        return store.create_cluster(name, node_name=node_name, names=NAMES, now_s=now_s)

    def invite(
        self, member: Identity, *, uses: int = 1, keeper: bool = True, now_s: float = NOW_S, lifetime_s: float = 900
    ) -> Invitation:
        return member.invite(["198.18.77.11:11435"], lifetime_s=lifetime_s, now_s=now_s, uses=uses, keeper=keeper)

    def ask(
        self,
        invitation: Invitation,
        *,
        keys: NodeKeys | None = None,
        node_name: str = "second",
        software: Software = SOFTWARE,
        now_s: float = NOW_S,
    ) -> PendingJoin:
        names = NodeNames.of(("198.18.77.12",), ("second.local",))
        return make_join_request(
            invitation,
            keys or NodeKeys.generate(),
            names=names,
            node_name=node_name,
            software=software,
            now_s=now_s,
        )

    def join(
        self, member: Identity, *, keeper: bool = True, node_name: str = "second", now_s: float = NOW_S
    ) -> Identity:
        pending = self.ask(self.invite(member, keeper=keeper, now_s=now_s), now_s=now_s)
        joined = member.answer_join(pending.request, software=self.software, now_s=now_s)
        membership = accept_join_answer(joined.answer, pending, now_s=now_s)
        store = IdentityStore(self.folder / member.cluster_name / node_name)
        return store.save(membership, node_name=node_name, now_s=now_s)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def first(world: World) -> Identity:
    return world.create()


@pytest.fixture
def second(world: World, first: Identity) -> Identity:
    return world.join(first)


@pytest.fixture
def shake() -> Callable[..., Handshake]:
    """Complete a TLS handshake in memory and send a byte each way. Returns (server's side, client's side)."""

    def run(server: ssl.SSLContext, client: ssl.SSLContext, *, hostname: str | None = None) -> Handshake:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server_side = server.wrap_bio(to_server, to_client, server_side=True)
        client_side = client.wrap_bio(to_client, to_server, server_hostname=hostname)
        # The client first, and the server at the end: a certificate that it refuses is found by its last step.
        for side in (client_side, server_side, client_side, server_side):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        client_side.write(b"?")
        assert server_side.read(1) == b"?"
        server_side.write(b"!")
        assert client_side.read(1) == b"!"
        return server_side, client_side

    return run
