"""A node on virtual time: memory, loads, and an engine with slots, a prefix cache and prompts read in order.

The engine is our own's in outline (node/engine): a bounded number of sequences; prompts read one after the other, in
pieces beside the running streams; a finished sequence's cache stays for whoever begins like it, the least recently
used one is given up first. Instances on one node share its device.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.simulated_load import CONTEXT_TOKENS, PARALLEL, Conversation, Model, Turn
from coordinator.cost import START_S
from coordinator.memory import fit
from coordinator.view import DeviceReport, HeldModel, NodeReport, PrefixHash, RamReport, ResidentModel, WeightsDigest
from node.identity import NodeId
from node.report import ManifestDigest

GIB = 1 << 30
# The engine's: a step beside running streams takes no longer, nor more tokens.
STALL_S = 0.25
BATCH_TOKENS = 512
# Decoding several sequences at once costs a little more than one.
SEQUENCE_COST = 0.08
MEAN_WEIGHT = 0.2
KEEP_ALIVE_S = 300.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of machine: memory, and bytes of weights it reads a second for a prompt token and for an output token."""

    name: str
    gpu_gib: float
    ram_gib: float
    prefill_bytes_s: float
    decode_bytes_s: float
    load_bytes_s: float = 1.5e9
    link_bytes_s: float = 110e6


KINDS = (
    (2, Kind("48 GiB GPU", 48, 128, 2.0e13, 8.0e11, 3e9)),
    (6, Kind("24 GiB GPU", 24, 64, 1.5e13, 9.0e11, 3e9)),
    (8, Kind("12 GiB GPU", 12, 32, 8.0e12, 4.0e11)),
    (8, Kind("8 GiB GPU", 8, 16, 5.0e12, 2.5e11)),
    (8, Kind("no GPU", 0, 32, 1.5e11, 4.0e10, 0.8e9)),
)
EQUAL_KINDS = ((32, Kind("24 GiB GPU", 24, 64, 1.0e13, 6.0e11)),)


@dataclass(eq=False, slots=True)
class Run:
    """A request on a node: when it came to the cluster, took a slot, gave its first token."""

    conversation: Conversation
    turn: Turn
    came_s: float
    cached: int = 0
    left: float = 0.0
    slot: Slot | None = None
    began_s: float = 0.0
    first_s: float = 0.0


@dataclass(eq=False, slots=True)
class Slot:
    """One sequence: what its cache holds, and who uses it."""

    marks: tuple[PrefixHash, ...] = ()
    counts: tuple[int, ...] = ()
    run: Run | None = None
    used_s: float = 0.0


@dataclass(eq=False, slots=True)
class Instance:
    """A loaded model. `clock`: tokens that each running stream has got since the beginning of time."""

    model: Model
    parallel: int
    prefill_tokens_s: float
    decode_tokens_s: float
    slots: list[Slot]
    used_s: float
    waiting: deque[Run] = field(default_factory=deque)
    reading: deque[Run] = field(default_factory=deque)
    streams: list[tuple[float, int, Run]] = field(default_factory=list)
    clock: float = 0.0
    at_s: float = 0.0
    mean_job_s: float = 0.0
    pinned: bool = False
    numbers: int = 0

    @property
    def is_busy(self) -> bool:
        return bool(self.reading or self.streams)

    @property
    def need_bytes(self) -> int:
        return self.model.footprint.need(CONTEXT_TOKENS, self.parallel).total_bytes

    def rates(self, share: int) -> tuple[float, float]:
        """Prompt tokens a second, and output tokens a second of each stream, while `share` instances compute."""
        step_s = (1 + SEQUENCE_COST * max(0, len(self.streams) - 1)) / self.decode_tokens_s
        if not self.reading:
            return 0.0, 1 / step_s / share
        if not self.streams:
            return self.prefill_tokens_s / share, 0.0
        chunk_s = min(STALL_S, BATCH_TOKENS / self.prefill_tokens_s)
        return self.prefill_tokens_s * chunk_s / (chunk_s + step_s) / share, 1 / (chunk_s + step_s) / share

    def advance(self, now_s: float, share: int) -> None:
        elapsed, self.at_s = now_s - self.at_s, now_s
        prefill, decode = self.rates(share)
        if self.reading:
            self.reading[0].left -= elapsed * prefill
        self.clock += elapsed * decode

    def next_s(self, share: int) -> float:
        """Seconds to the next event, if nothing else changes."""
        prefill, decode = self.rates(share)
        read = max(0.0, self.reading[0].left) / prefill if self.reading else float("inf")
        done = max(0.0, self.streams[0][0] - self.clock) / decode if self.streams and decode else float("inf")
        return min(read, done)

    def settle(self, now_s: float) -> Iterator[tuple[str, Run]]:
        """Take in what has come to its end, and begin what can."""
        while self.reading and self.reading[0].left <= 1e-6:
            run = self.reading.popleft()
            run.first_s = now_s
            self.numbers += 1
            heapq.heappush(self.streams, (self.clock + run.turn.output_tokens, self.numbers, run))
            yield "first", run
        while self.streams and self.streams[0][0] <= self.clock + 1e-6:
            run = heapq.heappop(self.streams)[2]
            self._end(run, now_s)
            yield "done", run
        while self.waiting and (idle := [slot for slot in self.slots if slot.run is None]):
            self._begin(self.waiting.popleft(), idle, now_s)

    def _begin(self, run: Run, idle: list[Slot], now_s: float) -> None:
        turn = run.turn
        best = max(self.slots, key=lambda slot: _shared(slot, turn))
        own = max(idle, key=lambda slot: _shared(slot, turn))
        slot = own
        if _shared(own, turn) < _shared(best, turn) or 2 * _shared(own, turn) < max(own.counts, default=0):
            slot = min(idle, key=lambda slot: (bool(slot.counts), slot.used_s))
        run.cached = min(_shared(best, turn), turn.prompt_tokens - 1)
        run.left = float(turn.prompt_tokens - run.cached)
        run.slot, run.began_s = slot, now_s
        kept = sum(1 for tokens in turn.mark_tokens if tokens <= run.cached)
        slot.run, slot.marks, slot.counts = run, turn.marks[:kept], turn.mark_tokens[:kept]
        self.reading.append(run)
        self.used_s = now_s

    def _end(self, run: Run, now_s: float) -> None:
        slot = run.slot
        assert slot is not None
        slot.run, slot.used_s, self.used_s = None, now_s, now_s
        later = run.conversation.turns.index(run.turn) + 1
        if later < len(run.conversation.turns):  # what the next turn will begin with is in the cache now
            following = run.conversation.turns[later]
            slot.marks, slot.counts = following.marks, following.mark_tokens
        else:
            slot.marks, slot.counts = run.turn.marks, run.turn.mark_tokens
        took_s = now_s - run.began_s
        self.mean_job_s += (MEAN_WEIGHT if self.mean_job_s else 1.0) * (took_s - self.mean_job_s)

    def report(self, now_s: float, on_gpu: bool) -> ResidentModel:
        active = sum(slot.run is not None for slot in self.slots)
        size = self.need_bytes
        return ResidentModel(
            digest=self.model.digest,
            manifest=ManifestDigest(self.model.digest),
            name=self.model.digest[-4:],
            context_tokens=CONTEXT_TOKENS,
            parallel=self.parallel,
            size_bytes=size,
            gpu_bytes=size if on_gpu else 0,
            active=active,
            queued=len(self.waiting),
            backlog_tokens=int(sum(run.left for run in self.reading) + sum(r.turn.prompt_tokens for r in self.waiting)),
            prefixes=frozenset(mark for slot in self.slots for mark in slot.marks),
            prefill_tokens_s=self.prefill_tokens_s,
            decode_tokens_s=self.decode_tokens_s,
            mean_job_s=self.mean_job_s,
            idle_s=0.0 if active or self.waiting else now_s - self.used_s,
            pinned=self.pinned,
        )


def _shared(slot: Slot, turn: Turn) -> int:
    held = set(slot.marks)
    return max((tokens for mark, tokens in zip(turn.marks, turn.mark_tokens, strict=True) if mark in held), default=0)


@dataclass(eq=False, slots=True)
class Node:
    """A machine. `version` tells a planned event from one that was overtaken."""

    id: NodeId
    kind: Kind
    held: dict[WeightsDigest, Model]
    everything: dict[WeightsDigest, Model]
    instances: dict[WeightsDigest, Instance] = field(default_factory=dict)
    loading: dict[WeightsDigest, float] = field(default_factory=dict)
    waiting: dict[WeightsDigest, list[Run]] = field(default_factory=dict)  # for what is being loaded
    sequence: int = 0
    version: int = 0

    @property
    def share(self) -> int:
        return max(1, sum(instance.is_busy for instance in self.instances.values()))

    def advance(self, now_s: float) -> None:
        share = self.share
        for instance in self.instances.values():
            instance.advance(now_s, share)

    def next_s(self) -> float:
        share = self.share
        return min((instance.next_s(share) for instance in self.instances.values()), default=float("inf"))

    def load_s(self, model: Model) -> float:
        fetch_s = 0.0 if model.digest in self.held else model.footprint.file_bytes / self.kind.link_bytes_s
        return fetch_s + START_S + model.footprint.file_bytes / self.kind.load_bytes_s

    def finish_load(self, model: Model, now_s: float) -> bool:
        """Make the instance, with as many sequences as there is room for; False: not even one.

        What has not been used for longest goes for it, as far as it is idle.
        """
        self.held[model.digest] = model
        idle = [i for i in self.instances.values() if not (i.is_busy or i.waiting or i.pinned)]
        idle.sort(key=lambda instance: -instance.used_s)
        need = model.footprint.need(CONTEXT_TOKENS, 1)
        while idle and fit(self.report(now_s), need).how not in ("gpu", "ram"):
            del self.instances[idle.pop().model.digest]
        for parallel in range(PARALLEL, 0, -1):
            found = fit(self.report(now_s), model.footprint.need(CONTEXT_TOKENS, parallel))
            if found.how in ("gpu", "ram") or (parallel == 1 and found.how == "partial"):
                weights = model.footprint.layer_bytes * found.slowdown
                self.instances[model.digest] = Instance(
                    model,
                    parallel,
                    self.kind.prefill_bytes_s / weights,
                    self.kind.decode_bytes_s / weights,
                    [Slot() for _ in range(parallel)],
                    now_s,
                    at_s=now_s,
                )
                return True
        return False

    def expire(self, now_s: float) -> None:
        for digest, instance in list(self.instances.items()):
            if not (instance.is_busy or instance.waiting or instance.pinned) and now_s - instance.used_s > KEEP_ALIVE_S:
                del self.instances[digest]

    def report(self, now_s: float) -> NodeReport:
        self.sequence += 1
        used = sum(instance.need_bytes for instance in self.instances.values())
        gpu, ram = int(self.kind.gpu_gib * GIB), int(self.kind.ram_gib * GIB)
        return NodeReport(
            node=self.id,
            name=self.kind.name,
            sequence=self.sequence,
            devices=(DeviceReport(name="0", total_bytes=gpu, free_bytes=max(0, gpu - used)),) if gpu else (),
            ram=RamReport(total_bytes=ram, free_bytes=max(0, ram - 4 * GIB - (0 if gpu else used))),
            resident=tuple(instance.report(now_s, gpu > 0) for instance in self.instances.values()),
            loading={d: self.everything[d].footprint.need(CONTEXT_TOKENS, 1).total_bytes for d in self.loading},
            held=tuple(
                HeldModel(
                    digest=digest,
                    manifest=ManifestDigest(digest),
                    name=digest[-4:],
                    size_bytes=model.footprint.file_bytes,
                    present_bytes=model.footprint.file_bytes,
                    footprint=model.footprint,
                )
                for digest, model in self.held.items()
            ),
            link_bytes_s=self.kind.link_bytes_s,
            load_bytes_s=self.kind.load_bytes_s,
            prefill_bytes_s=self.kind.prefill_bytes_s,
            decode_bytes_s=self.kind.decode_bytes_s,
        )
