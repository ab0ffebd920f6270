"""A daemon's LAN side for `bench.hop`: everything of a real one but the model, which emits a token each step.

`python -m bench.hop_node FILE`; the file is a JSON `Part`. Prints "ready" once the other node is up.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from api.app import create_app
from api.daemon import Daemon
from api.lan import LanListener
from api.lan_gate import LanGate
from coordinator.cluster_view import ClusterView
from coordinator.dispatch import Dispatcher
from coordinator.footprints import Footprints
from node.errors import NodeError
from node.identity import IdentityStore, NodeId
from node.jobs import Delta, Done, Embedded, EmbedJob, Event, Job, Rendered, Usage
from node.peers import AddressBook, Beat, Change, Endpoints, MemberRecord, Membership, Peers, SharedModels
from node.report import HeldModel, ModelDigest, NodeReport, RamReport, ResidentModel
from node.settings import Settings
from node.supervisor import LoadedModel, LoadOptions
from node.supervisor.channel import JobChannel
from registry import Model, ModelName, ModelStore

MODEL = "demo"


class Part(Struct):
    """What one node of the benchmark is given."""

    folder: str
    address: str
    port: int
    others: list[MemberRecord]
    serves: bool
    step_s: float


class PacedNode:
    """A model without arithmetic: each step gives every running job a token, all at once, as an engine's step does."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._jobs: dict[str, tuple[JobChannel, int, int]] = {}
        self._numbers = 0
        self._stepping: asyncio.Task[None] | None = None

    async def run(
        self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None
    ) -> AsyncGenerator[Event, None]:
        self._numbers += 1
        number = str(self._numbers)
        channel = JobChannel(number)
        channel.put(Delta(job=job.id, text="once ", tokens=(0,)))
        self._jobs[number] = (channel, 1, job.max_tokens or 16)
        if self._stepping is None:
            self._stepping = asyncio.create_task(self._steps())
        try:
            while True:
                event = msgspec.structs.replace(await channel.get(), job=job.id)
                yield event
                if isinstance(event, Done):
                    return
        finally:
            self._jobs.pop(number, None)

    async def _steps(self) -> None:
        next_s = time.monotonic()
        while self._jobs:
            next_s += self._step_s
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
            for number, (channel, said, budget) in list(self._jobs.items()):
                if said >= budget:
                    channel.put(Done(job=number, reason="length", usage=Usage(prompt_tokens=9, output_tokens=said)))
                    del self._jobs[number]
                else:
                    channel.put(Delta(job=number, text="word ", tokens=(said,)))
                    self._jobs[number] = (channel, said + 1, budget)
        self._stepping = None

    async def embed(self, model: Model, job: EmbedJob, options: LoadOptions, keep_alive_s: float | None) -> Embedded:
        raise NodeError

    async def render(self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None) -> Rendered:
        raise NodeError

    async def load(
        self, model: Model, options: LoadOptions, keep_alive_s: float | None, *, embedding: bool = False
    ) -> LoadedModel:
        raise NodeError

    async def unload(self, name: ModelName) -> bool:
        return False

    def loaded(self) -> list[LoadedModel]:
        return []


async def serve(part: Part) -> None:
    """Serve until stdin closes."""
    folder = Path(part.folder)
    identity = IdentityStore(folder / "cluster").open(now_s=time.time())
    settings = Settings(models_dir=folder / "models", state_dir=folder)
    store = ModelStore(settings.models_dir, cache_dir=settings.cache_dir)
    model = store.resolve(ModelName.parse(MODEL))
    paced = PacedNode(part.step_s)
    cluster = ClusterView(identity.node_id)
    started_at, sequence = time.time(), 0
    here = f"{part.address}:{part.port}"

    def report() -> NodeReport:
        nonlocal sequence
        sequence += 1
        digest, size = ModelDigest(str(model.digest)), model.size_bytes
        resident = ResidentModel(
            digest=digest,
            name=str(model.name),
            context_tokens=8192,
            default_context=True,
            parallel=64,
            size_bytes=size,
            prefill_tokens_s=5000.0,
        )
        held = HeldModel(digest=digest, name=str(model.name), size_bytes=size, present_bytes=size)
        return NodeReport(
            node=identity.node_id,
            name=identity.node_name,
            address=here,
            started_at=started_at,
            sequence=sequence,
            ram=RamReport(total_bytes=1 << 33, free_bytes=1 << 32),
            resident=(resident,) if part.serves else (),
            held=(held,),
        )

    def compose() -> Beat:
        own = report()
        cluster.take_own(own, time.monotonic())
        return Beat(report=own, addresses=(here,))

    def on_change(change: Change) -> None:
        cluster.take(change, time.monotonic())

    membership = Membership(identity.node_id)
    peers = Peers(
        membership,
        AddressBook(folder),
        ledger=identity.ledger,
        context=identity.peer_context,
        compose=compose,
        on_change=on_change,
    )
    endpoints = Endpoints(paced, SharedModels(store), peers.calls())
    dispatcher = Dispatcher(paced, peers.node, cluster, Footprints(settings))
    api = create_app(Daemon(store=store, node=dispatcher, settings=settings, version="0", bound_host="0.0.0.0"))
    revoked = identity.ledger.is_node_revoked
    gate = LanGate(
        api, endpoints, ca_pem=identity.anchor.ca_pem, verifier=identity.token_verifier(), is_revoked=revoked
    )
    listening = socket.create_server((part.address, part.port))
    listening.setblocking(False)
    listener = await LanListener.start(gate, listening, identity.server_context())
    cluster.take_own(report(), time.monotonic())
    peers.start()
    for record in part.others:
        peers.remember(record)
    while not all(_serving_known(cluster, record.node) for record in part.others):
        await cluster.changed(1.0)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await peers.close()
    endpoints.close()
    await listener.close(1.0)
    store.close()


def _serving_known(cluster: ClusterView, node: NodeId) -> bool:
    report = cluster.now.nodes.get(node)
    return report is not None and report.state == "up"


if __name__ == "__main__":
    uvloop.run(serve(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Part)))
