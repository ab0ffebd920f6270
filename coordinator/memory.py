"""Will a model fit on a node, as numbers: what it takes for a context, what the node has or could free.

This is the cluster's estimate, made from a report; the node itself decides layer by layer when it loads
(node.fit.place). Where the two differ the node wins, and its refusal comes back as a failed load.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from coordinator.view import is_evictable
from node.footprint import Footprint, Need
from node.report import NodeReport, ResidentModel

# What a driver's context and its scratch memory take beside llama.cpp's buffers, as in node.fit.
GPU_RESERVE_BYTES = 512 << 20
# Layers in RAM make a model so many times slower than layers on a GPU.
RAM_SLOWDOWN = 10.0
# Pipelining over several GPUs keeps copies of the inputs on each.
_SPREAD_COMPUTE = 1.25

__all__ = ["Fit", "Footprint", "How", "Need", "choose_victims", "fit"]

How: TypeAlias = Literal["gpu", "partial", "ram", "no"]


@dataclass(frozen=True, slots=True)
class Fit:
    """How a load would lie: `how`, the share of its layers on GPUs, and the numbers for people.

    `free_bytes`: over all devices that count, after unloading what may be. `slowdown`: of a part kept in RAM.
    """

    how: How
    needed_bytes: int
    free_bytes: int
    gpu_share: float = 0.0

    @property
    def slowdown(self) -> float:
        """How many times slower it computes than wholly on the node's best device."""
        return self.gpu_share + (1.0 - self.gpu_share) * RAM_SLOWDOWN if self.how == "partial" else 1.0


def fit(report: NodeReport, need: Need, *, freed: Iterable[ResidentModel] = ()) -> Fit:
    """Say how the node could hold a load, with the models in `freed` unloaded and those in `loading` there.

    1. Wholly on one GPU, or spread over all. 2. Without GPUs: in RAM. 3. Partly on GPUs, the rest in RAM.
    4. Wholly in RAM although there are GPUs, as "partial" with none of its layers on them. 5. Not at all.
    """
    gpu_gain = ram_gain = 0
    for resident in freed:
        gpu_gain += resident.gpu_bytes
        ram_gain += resident.size_bytes - resident.gpu_bytes
    arriving = sum(report.loading.values()) if report.loading else 0
    if not report.devices:
        free = report.ram.free_bytes + gpu_gain + ram_gain - arriving
        return Fit("ram" if need.total_bytes <= free else "no", need.total_bytes, max(0, free))
    ram = report.ram.free_bytes + ram_gain
    shared = any(device.shares_ram for device in report.devices)
    rooms = [max(0, device.free_bytes - GPU_RESERVE_BYTES) for device in report.devices]
    # What an unloaded model gives back lies on some GPU; which one the report does not say. One GPU is the usual case.
    best, total = max(rooms) + gpu_gain - arriving, sum(rooms) + gpu_gain - arriving
    if shared:
        ram += gpu_gain - arriving
        best, total = min(best, ram - need.fixed_bytes), min(total, ram - need.fixed_bytes)
    free = max(0, total if shared else total + ram)
    on_gpu = need.layer_bytes + need.compute_bytes
    spread = need.layer_bytes + int(need.compute_bytes * _SPREAD_COMPUTE) * len(rooms)
    if need.fixed_bytes <= ram and (on_gpu <= best or (len(rooms) > 1 and spread <= total)):
        return Fit("gpu", need.total_bytes, free, 1.0)
    room = max(0, total - need.compute_bytes)
    share = min(1.0, room / need.layer_bytes) if need.layer_bytes else 0.0
    in_ram = need.fixed_bytes + need.compute_bytes + need.layer_bytes - (0 if shared else int(need.layer_bytes * share))
    if in_ram <= ram:
        return Fit("partial", need.total_bytes, free, share)
    return Fit("no", need.total_bytes, free)


def choose_victims(
    report: NodeReport,
    need: Need,
    *,
    going: tuple[ResidentModel, ...] = (),
    used_within_s: float = 0.0,
    in_use: bool = False,
) -> tuple[Fit, tuple[ResidentModel, ...]]:
    """Unload as little as lets the load run at full speed, least recently used first; failing that, at any speed.

    `going`: these are unloaded in any case. `used_within_s`: what was used since then stays. `in_use`: where idle
    models are not enough for any speed, those in use go as well, once they are idle.
    Returns: how it fits then, and what has to go besides; nothing goes where nothing helps.
    """
    now = fit(report, need, freed=going)
    if now.how in ("gpu", "ram") or not report.resident:
        return now, ()
    others = [resident for resident in report.resident if not resident.pinned and resident not in going]
    idle = [resident for resident in others if is_evictable(resident) and resident.idle_s >= used_within_s]
    idle.sort(key=lambda resident: (-resident.idle_s, resident.digest))
    found, victims = _least(report, need, now, going, idle)
    if found.how == "no" and in_use:
        busy = [resident for resident in others if not is_evictable(resident)]
        busy.sort(key=lambda resident: (resident.active + resident.queued, resident.digest))
        return _least(report, need, now, going, idle + busy)
    return found, victims


def _least(
    report: NodeReport, need: Need, now: Fit, going: tuple[ResidentModel, ...], idle: list[ResidentModel]
) -> tuple[Fit, tuple[ResidentModel, ...]]:
    """As many of these, in order, as it takes."""
    fallback: tuple[Fit, tuple[ResidentModel, ...]] | None = (now, ()) if now.how == "partial" else None
    for count in range(1, len(idle) + 1):
        freed = tuple(idle[:count])
        found = fit(report, need, freed=going + freed)
        if found.how in ("gpu", "ram"):
            return found, _needed_ones(report, need, going, freed, found.how)
        if found.how == "partial" and fallback is None:
            fallback = (found, freed)
    return fallback or (fit(report, need, freed=(*going, *idle)), ())


def _needed_ones(
    report: NodeReport, need: Need, going: tuple[ResidentModel, ...], freed: tuple[ResidentModel, ...], how: How
) -> tuple[ResidentModel, ...]:
    """Spare those that turned out too small to matter."""
    kept = list(freed)
    for resident in freed:
        others = [other for other in kept if other is not resident]
        if fit(report, need, freed=(*going, *others)).how == how:
            kept = others
    return tuple(kept)
