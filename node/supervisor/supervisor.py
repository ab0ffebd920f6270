"""Which models are in memory, for whom, and until when. One event loop owns all of it.

A request takes a place in its model's slot, waits there for a load if one is needed (one load however many wait;
it is given up when nobody waits any more), uses the resident model, and gives it back. Loads happen one at a
time, so that each sees the memory the one before has left. Decisions are in `policy` and `node.fit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from node.devices import DeviceSource, Machine, MachineSource
from node.errors import Closing, DoesNotFit, NodeError, QueueFull
from node.fit import LoadChoice, ModelShape, default_context_tokens
from node.jobs import Embedded, EmbedJob, Event, Job, Rendered
from node.settings import Settings
from node.supervisor import plan
from node.supervisor.loading import start_resident
from node.supervisor.policy import can_serve, choose_eviction, freed, most_models, retry_after_s
from node.supervisor.resident import Claims, Resident, Weights
from node.supervisor.runner import HANG_LIMIT_S, Runner
from node.supervisor.types import LoadedModel, LoadOptions, WeightsKey
from node.telemetry import Telemetry

if TYPE_CHECKING:
    from registry import Digest, Model, ModelName

log = logging.getLogger(__name__)

# How long a load waits for models in use to become free before it answers "busy".
BUSY_LIMIT_S = 300.0
_BUSY_RETRY_S = 10
_MOST_REMEMBERED_MODELS = 4096

# Why a model leaves memory: another one (or the same, loaded otherwise) needs the room, nobody asked for it long
# enough (or somebody said so), its process is gone, the node ends.
_Why: TypeAlias = Literal["room", "idle", "lost", "closing"]


@dataclass(eq=False, slots=True)
class _Load:
    """A load in progress and the requests that wait for it."""

    task: asyncio.Task[Resident]
    claims: Claims


@dataclass(eq=False, slots=True)
class _Slot:
    """Requests for the same weights: those that wait, the load they wait for, the model they use."""

    weights: Weights
    resident: Resident | None = None
    load: _Load | None = None
    waiting: int = 0

    @property
    def in_use(self) -> int:
        return self.resident.in_use if self.resident else 0

    @property
    def is_empty(self) -> bool:
        return self.resident is None and self.load is None and not self.waiting


class Supervisor:
    """The runners of this machine."""

    def __init__(
        self,
        settings: Settings,
        devices: MachineSource | None = None,
        *,
        telemetry: Telemetry | None = None,
        command: Sequence[str] | None = None,
        busy_limit_s: float = BUSY_LIMIT_S,
        hang_limit_s: float = HANG_LIMIT_S,
    ) -> None:
        """Start with nothing loaded.

        Args:
            devices: who knows the machine; None: ask the engine.
            telemetry: where jobs and loads are counted.
            command: another program as runner.
            busy_limit_s: how long a load waits for models in use.
            hang_limit_s: how long a runner with open jobs may neither answer nor compute.
        """
        self._settings = settings
        self._devices = devices or DeviceSource()
        self._telemetry = telemetry or Telemetry()
        self._command = command
        self._busy_limit_s = busy_limit_s
        self._hang_limit_s = hang_limit_s
        self._slots: dict[Weights, _Slot] = {}
        self._weights: dict[tuple[Digest, bool], Weights] = {}
        self._kept: frozenset[WeightsKey] = frozenset()
        self._default_tokens = settings.context_length or 0  # of a request that asks for no context
        self._placing = asyncio.Lock()
        self._loads: set[asyncio.Task[Resident]] = set()
        self._unloading: set[asyncio.Task[None]] = set()
        self._closing = False

    async def run(
        self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Generate with the model, loading it if need be: `Delta` ... and `Done`.

        Args:
            options: of the request, over those of the model's own parameters (the caller has merged them).
            keep_alive_s: how long the model stays afterwards; negative or math.inf: for ever; None: as it was, at
                first as the settings say.
        Returns: a generator; close it (contextlib.aclosing) to cancel the job.
        Raises: QueueFull, DoesNotFit, LoadFailure, Closing: it could not begin. JobFailed, RunnerLost, SlowReader:
            it ended early. RegistryError: the model's files are damaged.
        """
        with self._telemetry.watch(model, job) as watch:
            async with (
                self._use(model, options, keep_alive_s) as runner,
                aclosing(runner.run(job)) as events,
            ):
                watch.ready()
                async for event in events:
                    watch.take(event)
                    yield event

    async def embed(
        self, model: Model, job: EmbedJob, options: LoadOptions, keep_alive_s: float | None = None
    ) -> Embedded:
        """Embed texts with the model, loading it for that if need be. Raises as `run`."""
        with self._telemetry.watch(model, job) as watch:
            async with self._use(model, options, keep_alive_s, embedding=True) as runner:
                watch.ready()
                embedded = await runner.embed(job)
                watch.take(embedded)
                return embedded

    async def render(self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None = None) -> Rendered:
        """Only render the job's prompt. Raises as `run`."""
        async with self._use(model, options, keep_alive_s) as runner:
            return await runner.render(job)

    async def load(
        self, model: Model, options: LoadOptions, keep_alive_s: float | None = None, *, embedding: bool = False
    ) -> LoadedModel:
        """Have the model in memory, for generating or for `embedding`. Raises as `run`."""
        resident = await self._acquire(model, options, keep_alive_s, embedding=embedding)
        try:
            return resident.describe(0)
        finally:
            resident.give_back()
            self._settle(resident)

    async def unload(self, name: ModelName) -> bool:
        """Unload the model as soon as no request uses it; False: it is not loaded.

        Requests that come before that are still served.
        """
        found = [slot.resident for slot in self._slots.values() if slot.resident and name in slot.resident.names]
        for resident in found:
            resident.keep_alive_s = 0.0
            self._settle(resident)
        return bool(found)

    def keep(self, weights: frozenset[WeightsKey]) -> None:
        """Have these, and no others, make no room for what else is to be loaded; nor do they count as loaded models."""
        self._kept = weights

    def leave(self, weights: Digest, *, embedding: bool) -> None:
        """Unload these weights as soon as no request uses them; requests that come before that are still served."""
        leaving = [slot.resident for slot in self._slots.values() if slot.weights.key == (weights, embedding)]
        for resident in leaving:
            if resident is not None:
                resident.keep_alive_s = 0.0
                self._settle(resident)

    def let_go(self, weights: Digest, *, embedding: bool) -> None:
        """End every request that is at work with these weights, with Closing: whoever asked may go on elsewhere.

        They stay in memory, and requests that come later are served.
        """
        for slot in self._slots.values():
            if slot.resident and slot.weights.key == (weights, embedding):
                slot.resident.runner.let_go()

    def loaded(self) -> list[LoadedModel]:
        """The models in memory, most recently used first."""
        slots = [slot for slot in self._slots.values() if slot.resident]
        slots.sort(key=lambda slot: slot.resident.last_used_s if slot.resident else 0.0, reverse=True)
        return [slot.resident.describe(slot.waiting) for slot in slots if slot.resident]

    async def close(self) -> None:
        """End every runner, whatever it is doing; the supervisor takes no more work. Returns when all are gone."""
        self._closing = True
        for load in self._loads:
            load.cancel()
        await asyncio.gather(*self._loads, return_exceptions=True)
        for slot in list(self._slots.values()):
            if slot.resident:
                self._unload(slot.resident, "closing", "the node is shutting down")
        await asyncio.gather(*self._unloading, return_exceptions=True)

    # Taking and giving back

    @asynccontextmanager
    async def _use(
        self, model: Model, options: LoadOptions, keep_alive_s: float | None, *, embedding: bool = False
    ) -> AsyncIterator[Runner]:
        """A runner that has the model, at least until the block ends."""
        resident = await self._acquire(model, options, keep_alive_s, embedding=embedding)
        started_s = time.monotonic()
        try:
            yield resident.runner
        finally:
            resident.give_back(time.monotonic() - started_s)
            self._settle(resident)

    async def _acquire(
        self, model: Model, options: LoadOptions, keep_alive_s: float | None, *, embedding: bool
    ) -> Resident:
        if keep_alive_s is not None and keep_alive_s < 0:
            keep_alive_s = math.inf
        weights = await self._weights_of(model, embedding=embedding)
        slot = self._slots.setdefault(weights, _Slot(weights))
        places = slot.resident.parallel if slot.resident else 1
        if slot.waiting + slot.in_use >= places + self._settings.max_queue:
            mean_s = slot.resident.mean_job_s if slot.resident else float(_BUSY_RETRY_S)
            raise QueueFull(slot.waiting + slot.in_use, retry_after_s(mean_s, places))
        slot.waiting += 1
        try:
            while True:
                if self._closing:
                    raise Closing
                resident = slot.resident
                if resident and not resident.leaving and self._does(resident, options):
                    resident.take(model, keep_alive_s)
                    return resident
                load = slot.load or self._begin_load(slot, model, options, keep_alive_s)
                async with self._waiting_for(slot, load) as resident:
                    # Even if somebody else wants its room already: else two models could evict each other for ever.
                    if resident and not resident.runner.is_lost and self._does(resident, options):
                        resident.take(model, keep_alive_s)
                        return resident
        finally:
            slot.waiting -= 1
            self._tidy(slot)

    def _begin_load(self, slot: _Slot, model: Model, options: LoadOptions, keep_alive_s: float | None) -> _Load:
        claims = Claims()
        load = self._load(slot, claims, model, options, keep_alive_s)
        slot.load = _Load(asyncio.create_task(load, name=f"load {model.name}"), claims)
        self._loads.add(slot.load.task)
        slot.load.task.add_done_callback(self._forget_load)
        return slot.load

    @asynccontextmanager
    async def _waiting_for(self, slot: _Slot, load: _Load) -> AsyncIterator[Resident | None]:
        """Wait for a load that others wait for too; the last to leave ends it. None: it was given up.

        What was loaded is not unloaded before the block ends. Raises what the load raised.
        """
        load.claims.count += 1
        try:
            await asyncio.wait({load.task})
            yield None if load.task.cancelled() else load.task.result()
        finally:
            load.claims.count -= 1
            if not load.claims.count:
                load.task.cancel()
                if slot.load is load:
                    slot.load = None
            if slot.resident:
                self._settle(slot.resident)

    def _forget_load(self, load: asyncio.Task[Resident]) -> None:
        self._loads.discard(load)
        if not load.cancelled():
            load.exception()  # seen: those who waited for it may all have left

    async def _weights_of(self, model: Model, *, embedding: bool) -> Weights:
        key = (model.weights_digest, embedding)
        known = self._weights.get(key)
        if known is None or not known.are_there():  # the model that they were read for may be gone, and its files
            known = await asyncio.to_thread(Weights.of, model, embedding=embedding)
            if len(self._weights) >= _MOST_REMEMBERED_MODELS:
                self._weights.clear()
            self._weights[key] = known
        return known

    def _does(self, resident: Resident, options: LoadOptions) -> bool:
        train_tokens = resident.info.train_context_tokens
        return can_serve(
            options,
            resident.options,
            context_tokens=resident.info.context_tokens,
            parallel=resident.parallel,
            enough_tokens=min(self._default_tokens, train_tokens or self._default_tokens),
            train_tokens=train_tokens,
        )

    def _settle(self, resident: Resident) -> None:
        """Plan an idle model's end, after its keep-alive."""
        if resident.is_busy or resident.gone.is_set():
            return
        resident.stop_timer()
        if resident.leaving or resident.keep_alive_s <= 0:
            self._expire(resident)
        elif resident.keep_alive_s != math.inf:
            loop = asyncio.get_running_loop()
            resident.timer = loop.call_later(resident.keep_alive_s, self._expire, resident)

    def _expire(self, resident: Resident) -> None:
        if not resident.is_busy:
            self._unload(resident, "room" if resident.evictors else "idle", "it was idle")

    def _unload(self, resident: Resident, why: _Why, reason: str) -> None:
        """Take the model away from its slot and end its runner; nothing, if that has been done."""
        resident.stop_timer()
        slot = self._slots.get(resident.weights)
        if slot is None or slot.resident is not resident:
            return
        slot.resident = None
        self._tidy(slot)
        log.info("unloading model=%s pid=%d reason=%s", resident.model.name, resident.runner.pid, reason)
        self._telemetry.metrics.unloaded(str(resident.model.name), why)
        task = asyncio.create_task(_end(resident), name=f"unload {resident.model.name}")
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    def _unload_when_lost(self, resident: Resident) -> None:
        resident.runner.lost.add_done_callback(lambda lost: self._unload(resident, "lost", lost.result()))

    def _tidy(self, slot: _Slot) -> None:
        if slot.is_empty and self._slots.get(slot.weights) is slot:
            del self._slots[slot.weights]

    # Loading

    async def _load(
        self, slot: _Slot, claims: Claims, model: Model, options: LoadOptions, keep_alive_s: float | None
    ) -> Resident:
        """Make the slot's model resident, in the place of one that does not do. Owned by the slot."""
        this = asyncio.current_task()
        try:
            shape = ModelShape.of(await asyncio.to_thread(model.facts))
            deadline_s = time.monotonic() + self._busy_limit_s
            if slot.resident:
                await self._await_gone(slot.resident, deadline_s)
            while True:
                async with self._placing:
                    found = await self._make_room(str(model.name), slot.weights, shape, options)
                    if not isinstance(found, Resident):
                        choice, machine = found
                        resident = await start_resident(
                            model,
                            slot.weights,
                            shape,
                            choice,
                            machine,
                            options,
                            self._settings,
                            claims=claims,
                            keep_alive_s=self._settings.keep_alive_s if keep_alive_s is None else keep_alive_s,
                            command=self._command,
                            hang_limit_s=self._hang_limit_s,
                        )
                        slot.resident = resident
                        self._unload_when_lost(resident)
                        self._telemetry.metrics.loaded(str(model.name), resident.info.load_ns / 1e9)
                        return resident
                await self._await_gone(found, deadline_s)
        except NodeError as error:
            self._telemetry.metrics.load_failed(str(model.name), type(error).__name__)
            raise
        finally:
            if slot.load and slot.load.task is this:
                slot.load = None
            self._tidy(slot)

    async def _make_room(
        self, name: str, weights: Weights, shape: ModelShape, options: LoadOptions
    ) -> tuple[LoadChoice, Machine] | Resident:
        """Unload what must go for this model to be loaded.

        Returns: how to load it now; or a model in use that has to end first.
        Raises: DoesNotFit: not even an otherwise empty machine would hold it.
        """
        while True:
            await asyncio.gather(*self._unloading, return_exceptions=True)
            machine = await self._devices.machine(refresh=True)
            self._default_tokens = self._settings.context_length or default_context_tokens(machine)
            most = most_models(self._settings.max_loaded_models, machine)
            residents = [slot.resident for slot in self._slots.values() if slot.resident]
            residencies = [each.residency() for each in residents if each.weights.key not in self._kept]
            with _naming(name):
                plan.choose(shape, freed(machine, residencies), options, self._settings, weights)
            victims = choose_eviction(
                residencies,
                machine,
                most=most,
                is_enough=lambda free: plan.fits_fully(shape, free, options, self._settings, weights),
            )
            if not victims:
                break
            for victim in victims:
                self._unload(victim, "room", f"room is needed for {name}")
        busy = min(residencies, key=lambda residency: residency.last_used, default=None)
        if busy is not None and len(residencies) >= most:
            return busy.owner
        try:
            with _naming(name):
                return plan.choose(shape, machine, options, self._settings, weights), machine
        except DoesNotFit:
            if busy is None:
                raise
            return busy.owner

    async def _await_gone(self, resident: Resident, deadline_s: float) -> None:
        """Let no new request use the model, and wait until it is unloaded. Raises QueueFull: it is still in use."""
        resident.evictors += 1
        try:
            self._settle(resident)
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                await resident.gone.wait()
        except TimeoutError:
            raise QueueFull(resident.in_use, _BUSY_RETRY_S) from None
        finally:
            resident.evictors -= 1


async def _end(resident: Resident) -> None:
    try:
        await resident.runner.stop()
    finally:
        resident.gone.set()


@contextlib.contextmanager
def _naming(model: str) -> Iterator[None]:
    """Say in a refusal which model it is about."""
    try:
        yield
    except DoesNotFit as refusal:
        raise DoesNotFit(refusal.needed_bytes, refusal.free_bytes, model) from None
