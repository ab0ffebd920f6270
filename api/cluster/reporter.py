"""What this node says of itself, put together from what it has in memory, on disk and as devices."""

from __future__ import annotations

import asyncio
import logging
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from node.devices import Machine, MachineSource, read_ram
from node.report import (
    MAX_HELD_MODELS,
    DeviceReport,
    HeldModel,
    ManifestDigest,
    NodeReport,
    NodeState,
    RamReport,
    ResidentModel,
    WeightsDigest,
)
from node.supervisor import LoadedModel, LoadOptions, WeightsKey
from node.waiting import set_within
from registry import Model, ModelStore, RegistryError

if TYPE_CHECKING:
    from api.cluster.measured import MeasuredNode
    from coordinator.footprints import Footprints
    from node.identity import NodeId
    from node.report import TokenUse

log = logging.getLogger(__name__)

SCAN_S = 5.0
# Asking GPUs for their free memory starts a process: now and then, and when models have come or gone.
DEVICES_S = 30.0
# The list of stored models goes out whole for a while after it has changed, and for a second now and then for those
# who missed it.
TELL_HELD_S = 5.0
REPEAT_HELD_S = 15
# Up to this many models it costs next to nothing.
FEW_HELD = 32


class Reporter:
    """One node's reports. `draining`, `standing` are set by others; `standing` is how it is with Ray."""

    def __init__(
        self,
        me: NodeId,
        name: str,
        *,
        version: str,
        ray_version: str,
        store: ModelStore,
        node: MeasuredNode,
        devices: MachineSource,
        footprints: Footprints,
        token_use: Callable[[], dict[str, TokenUse]],
        waiting: Callable[[], dict[WeightsDigest, int]],
        started_at: float,
        head: Literal["auto", "prefer", "never"],
    ) -> None:
        """`head`: the operator's word on being one."""
        self.address = ""
        self.draining = False
        self.standing: Mapping[str, object] = {}
        self._me, self._name, self._version, self._ray_version = me, name, version, ray_version
        self._store, self._node, self._devices, self._footprints = store, node, devices, footprints
        self._token_use, self._waiting = token_use, waiting
        self._started_at = started_at
        self._head_preference = {"auto": 0, "prefer": 1, "never": -1}[head]
        self._on_battery = False
        self._ready_at = _booted_at()
        self._sequence = 0
        self._machine: Machine | None = None
        self._held: tuple[HeldModel, ...] = ()
        self._stored: list[Model] = []
        self._held_changed_s = -math.inf
        self._scan_now = asyncio.Event()
        # What was in memory at the last report.
        self._there: frozenset[WeightsKey] = frozenset()

    def report(self) -> NodeReport:
        """The node now."""
        self._sequence += 1
        loaded = self._node.loaded()
        if (there := frozenset((item.weights, item.embedding) for item in loaded)) != self._there:
            self._there = there
            self._scan_now.set()
        now = datetime.now(UTC)
        ram = read_ram()
        state: NodeState = "draining" if self.draining else "up"
        gpus = self._machine.gpus if self._machine else ()
        return NodeReport(
            node=self._me,
            name=self._name,
            address=self.address,
            version=self._version,
            ray_version=self._ray_version,
            python_version=platform.python_version(),
            platform=sys.platform,
            started_at=self._started_at,
            ready_at=self._ready_at,
            sequence=self._sequence,
            state=state,
            devices=tuple(
                DeviceReport(
                    name=gpu.description or gpu.name,
                    total_bytes=gpu.total_bytes,
                    free_bytes=min(gpu.free_bytes, gpu.total_bytes),
                    shares_ram=gpu.shares_ram,
                )
                for gpu in gpus
            ),
            ram=RamReport(total_bytes=ram.total_bytes, free_bytes=ram.free_bytes),
            resident=tuple(self._resident(item, now) for item in loaded),
            loading={WeightsDigest(str(digest)): size for digest, size in self._node.loading().items()},
            held=self._held,
            prefill_bytes_s=self._node.prefill_bytes_s,
            decode_bytes_s=self._node.decode_bytes_s,
            load_bytes_s=self._node.load_bytes_s,
            head_preference=self._head_preference,
            on_battery=self._on_battery,
            token_use=self._token_use(),
            waiting=self._waiting(),
            **self.standing,  # type: ignore[arg-type]
        )

    def to_tell(self, report: NodeReport, now_s: float) -> NodeReport:
        """The report as it goes out: mostly without the list of stored models, where that is long."""
        changed_lately = now_s - self._held_changed_s < TELL_HELD_S
        in_full = len(report.held) <= FEW_HELD or changed_lately or int(now_s) % REPEAT_HELD_S == 0
        return report if in_full else report.without_held()

    def tell_held(self) -> None:
        """Somebody may not know what is stored here."""
        self._held_changed_s = time.monotonic()

    def scan_soon(self) -> None:
        """Models were added or removed."""
        self._scan_now.set()

    def stored(self) -> list[Model]:
        """The models of this machine, as of the last scan."""
        return self._stored

    async def keep(self, on_change: Callable[[], None]) -> None:
        """Look after the models on disk and the devices, for ever."""
        looked_s, seen = -math.inf, None
        while True:
            self._scan_now.clear()
            try:
                if await self._scan():
                    on_change()
                there, has_gpus = self._there, self._machine is not None and bool(self._machine.gpus)
                if (has_gpus and there != seen) or time.monotonic() - looked_s > DEVICES_S:
                    self._machine = await self._devices.machine(refresh=True)
                    self._on_battery = _is_on_battery()
                    looked_s, seen = time.monotonic(), there
            except (OSError, RegistryError) as error:
                log.warning("stored models not read: %s", error)
            except Exception:  # the next look may do better
                log.exception("looking at this machine failed")
            await set_within(self._scan_now, SCAN_S)

    async def _scan(self) -> bool:
        """Whether what is stored has changed."""
        models = (await asyncio.to_thread(self._store.list))[:MAX_HELD_MODELS]
        self._stored = models
        held = []
        for model in models:
            present_bytes = await asyncio.to_thread(_present_bytes, model)
            footprint = None
            if present_bytes >= model.size_bytes:
                footprint = await self._footprints.of(model, LoadOptions(), embedding=False)
            held.append(
                HeldModel(
                    digest=WeightsDigest(str(model.weights_digest)),
                    manifest=ManifestDigest(str(model.digest)),
                    name=str(model.name),
                    size_bytes=model.size_bytes,
                    present_bytes=present_bytes,
                    footprint=footprint,
                )
            )
        if tuple(held) == self._held:
            return False
        self._held, self._held_changed_s = tuple(held), time.monotonic()
        return True

    def _resident(self, item: LoadedModel, now: datetime) -> ResidentModel:
        speed = self._node.speeds.get((item.weights, item.embedding))
        weights = sum(device.model_bytes for device in item.info.allocated) or item.size_bytes or 1
        expires_in_s = math.inf if item.expires_at is None else max(0.0, (item.expires_at - now).total_seconds())
        return ResidentModel(
            digest=WeightsDigest(str(item.weights)),
            manifest=ManifestDigest(str(item.digest)),
            name=str(item.name),
            context_tokens=item.context_tokens,
            parallel=item.parallel,
            default_context=item.default_context,
            embedding=item.embedding,
            size_bytes=item.size_bytes,
            gpu_bytes=item.vram_bytes,
            active=item.active,
            queued=item.queued,
            backlog_tokens=item.backlog_tokens,
            prefixes=item.prefixes,
            prefill_tokens_s=(speed.prefill_tokens_s if speed else 0.0) or self._node.prefill_bytes_s / weights,
            decode_tokens_s=speed.decode_tokens_s if speed else 0.0,
            mean_job_s=speed.mean_job_s if speed else 0.0,
            idle_s=item.idle_s,
            expires_in_s=expires_in_s,
            pinned=(item.weights, item.embedding) in self._node.pinned,
        )


def _present_bytes(model: Model) -> int:
    return sum(layer.size_bytes for layer in model.manifest.blobs if model.blobs.has(layer.digest))


def _is_on_battery() -> bool:
    """Whether this is a laptop away from its charger; a machine that can't tell is not."""
    import psutil

    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return battery is not None and battery.power_plugged is False


def _booted_at() -> float:
    import psutil

    return psutil.boot_time()
