"""Real nodes of one cluster in this process: real certificates, TLS sockets on 127.0.0.11 and on, scripted models."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from api.lan import LanListener
from api.lan_gate import LanGate
from node.identity import Identity, IdentityStore, NodeId, NodeKeys, NodeNames, Signed, Software, issue_certificate
from node.identity import Membership as Joining
from node.peers import (
    AddressBook,
    Beat,
    Change,
    Endpoints,
    MemberRecord,
    Membership,
    Peers,
    Registrar,
    SharedModels,
)
from node.report import NodeReport
from node.serves import Serves
from registry import ModelStore

SOFTWARE = Software(ayni="0", python="3.11.0")
ADDRESSES = ("127.0.0.11", "127.0.0.12", "127.0.0.13")


def identities(folder: Path, count: int) -> list[Identity]:
    """The members of a new cluster."""
    now_s = time.time()
    first = IdentityStore(folder / "0").create_cluster(
        "home", node_name="n0", names=NodeNames.of((ADDRESSES[0],)), now_s=now_s
    )
    return [first, *(join(first, folder / str(n), f"n{n}", ADDRESSES[n % 3]) for n in range(1, count))]


def join(first: Identity, folder: Path, name: str, address: str) -> Identity:
    """One more member, certified by the first one's root."""
    now_s = time.time()
    root, keys = first.need_root(), NodeKeys.generate()
    certificate = issue_certificate(
        root,
        node=keys.node_id,
        tls_key=keys.tls.public_key(),
        names=NodeNames.of((address,)),
        cluster_name="home",
        now_s=now_s,
    )
    records = tuple(first.ledger.records())
    membership = Joining(root.anchor, root, keys, certificate, "home", records)
    return IdentityStore(folder).save(membership, node_name=name, now_s=now_s)


class LanNode:
    """One member: its LAN port, its links to the others, and what it runs models with."""

    def __init__(self, identity: Identity, serves: Serves, store: ModelStore, folder: Path, address: str) -> None:
        self.identity, self.serves, self.host = identity, serves, address
        self.started_at = time.time()
        self.sequence = 0
        self.changes: list[Change] = []
        self.report_with: Callable[[NodeReport], NodeReport] = lambda report: report
        self.removal_of: Callable[[NodeId], Signed | None] = identity.ledger.removal_of
        self.socket = socket.create_server((address, 0))
        self.socket.setblocking(False)
        self.address = f"{address}:{self.socket.getsockname()[1]}"
        self.membership = Membership(identity.node_id)
        self.peers = Peers(
            self.membership,
            AddressBook(folder),
            ledger=identity.ledger,
            context=identity.peer_context,
            compose=self._beat,
            on_change=self.changes.append,
        )
        self.registrar = Registrar(identity, self.peers, SOFTWARE)
        calls = self.peers.calls() | self.registrar.calls()
        self.endpoints = Endpoints(serves, SharedModels(store), calls)
        self.api: ASGIApp = PlainTextResponse("the API")
        self.listener: LanListener | None = None

    @property
    def id(self) -> NodeId:
        return self.identity.node_id

    def report(self) -> NodeReport:
        self.sequence += 1
        return self.report_with(
            NodeReport(
                node=self.id,
                name=self.identity.node_name,
                address=self.address,
                started_at=self.started_at,
                sequence=self.sequence,
            )
        )

    def _beat(self) -> Beat:
        return Beat(report=self.report(), addresses=(self.address,))

    async def start(self, known: Sequence[MemberRecord] = ()) -> None:
        gate = LanGate(
            self.api,
            self.endpoints,
            ca_pem=self.identity.anchor.ca_pem,
            verifier=self.identity.token_verifier(),
            removal_of=lambda node: self.removal_of(node),
        )
        self.listener = LanListener(gate, self.socket, self.identity.server_context())
        self.peers.start()
        for record in known:
            self.peers.remember(record)

    async def kill(self) -> None:
        """As kill -9 would: the sockets close, nobody is told."""
        self.membership = Membership(self.id)
        self.peers.membership = self.membership  # so that closing says goodbye to nobody
        assert self.listener is not None
        await self.listener.close(0)
        await self.peers.close()
        await asyncio.sleep(0)

    async def close(self) -> None:
        await self.peers.close()
        self.endpoints.close()
        if self.listener is not None:
            await self.listener.close(1)

    def record(self) -> MemberRecord:
        return MemberRecord(node=self.id, name=self.identity.node_name, addresses=(self.address,))


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Wait for something that happens by itself."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


@asynccontextmanager
async def lan_nodes(
    folder: Path, serves: Sequence[Serves], stores: Sequence[ModelStore]
) -> AsyncIterator[list[LanNode]]:
    """A cluster whose members all see each other."""
    async with AsyncExitStack() as stack:
        nodes = [
            LanNode(identity, node, store, folder / f"book{n}", ADDRESSES[n % 3])
            for n, (identity, node, store) in enumerate(
                zip(identities(folder, len(serves)), serves, stores, strict=True)
            )
        ]
        for node in nodes:
            await node.start([other.record() for other in nodes if other is not node])
            stack.push_async_callback(node.close)
        await until(lambda: all(node.membership.is_up(o.id) for node in nodes for o in nodes if o is not node))
        yield nodes
