"""A daemon's LAN side for `bench.hop`: everything of a real one but the model, which emits a token each step.

`python -m bench.hop_node FILE`; the file is a JSON `Part`. Prints "ready" once the other node is up.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from api.cluster.lan_sockets import open_sockets
from api.cluster.member import ClusterNode
from api.daemon import Daemon
from node.devices import Machine, Ram
from node.errors import NodeError
from node.identity import IdentityStore, NodeId
from node.jobs import Delta, Done, Embedded, EmbedJob, Event, Job, Rendered, Usage
from node.peers import MemberRecord
from node.runner.protocol import Loaded
from node.settings import Settings
from node.supervisor import LoadedModel, LoadOptions
from node.supervisor.channel import JobChannel
from registry import Digest, Model, ModelName, ModelStore

MODEL = "demo"
SETTLE_S = 2.0
CONTEXT_TOKENS = 8192
PARALLEL = 64


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

    def __init__(self, step_s: float, model: Model | None) -> None:
        """`model`: what is in its memory from the start."""
        self._step_s = step_s
        self._model = model
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

    def keep(self, weights: frozenset[tuple[Digest, bool]]) -> None:
        pass

    def leave(self, weights: Digest, *, embedding: bool) -> None:
        pass

    def let_go(self, weights: Digest, *, embedding: bool) -> None:
        pass

    def loaded(self) -> list[LoadedModel]:
        if self._model is None:
            return []
        info = Loaded(
            load_ns=1,
            context_tokens=CONTEXT_TOKENS,
            train_context_tokens=CONTEXT_TOKENS,
            embedding_length=8,
            allocated=(),
            supports_tools=False,
            supports_thinking=False,
            supports_infill=False,
        )
        return [
            LoadedModel(
                name=self._model.name,
                digest=self._model.digest,
                weights=self._model.weights_digest,
                size_bytes=self._model.size_bytes,
                vram_bytes=0,
                context_tokens=CONTEXT_TOKENS,
                parallel=PARALLEL,
                embedding=False,
                expires_at=None,
                info=info,
                active=min(PARALLEL, len(self._jobs)),
                queued=0,
            )
        ]


class NoGpu:
    """A machine whose memory is not the question here."""

    async def machine(self, *, refresh: bool) -> Machine:
        return Machine(ram=Ram(1 << 33, 1 << 32))


async def serve(part: Part) -> None:
    """Serve until stdin closes."""
    folder = Path(part.folder)
    settings = Settings(
        models_dir=folder / "models",
        state_dir=folder,
        lan_hosts=(part.address,),
        lan_port=part.port,
        discovery="off",
        ray="off",
    )
    store = ModelStore(settings.models_dir, cache_dir=settings.cache_dir)
    paced = PacedNode(part.step_s, store.resolve(ModelName.parse(MODEL)) if part.serves else None)
    daemon = Daemon(store=store, node=paced, settings=settings, version="0")
    identity = IdentityStore(folder / "cluster").open(now_s=time.time())
    member = ClusterNode(
        daemon, paced, identity, folder / "cluster", devices=NoGpu(), ray_version="", on_removed=sys.exit
    )
    await member.start(open_sockets(settings), part.others)
    daemon.node, daemon.shelf.elsewhere = member.turns, member.catalogue
    while not all(_is_up(member, record.node) for record in part.others):
        await member.view.changed(1.0)
    await asyncio.sleep(SETTLE_S)  # the first scan of stored models, and what it makes the nodes tell each other
    # As the real daemon does once everything is imported.
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await member.close(drain_s=0.5)
    store.close()


def _is_up(member: ClusterNode, node: NodeId) -> bool:
    report = member.view.now.nodes.get(node)
    return report is not None and report.state == "up"


if __name__ == "__main__":
    uvloop.run(serve(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Part)))
