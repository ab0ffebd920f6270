"""The supervisor's decisions, as functions of plain values: who goes, who can serve, how long to wait."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from msgspec.structs import replace

from node.devices import Machine, Ram
from node.supervisor.types import LoadOptions

Owner = TypeVar("Owner")
MODELS_PER_DEVICE = 3  # Ollama's default: more small models than that on one GPU slow each other down
LONGEST_RETRY_S = 60


@dataclass(frozen=True, slots=True)
class Residency(Generic[Owner]):
    """A loaded model as eviction sees it: what it would free (by device name; "CPU" is RAM), and who it is."""

    owner: Owner
    last_used: float
    busy: bool
    bytes_on: tuple[tuple[str, int], ...] = ()


def most_models(configured: int | None, machine: Machine) -> int:
    """How many models may be loaded."""
    return configured or MODELS_PER_DEVICE * max(1, len(machine.gpus))


def choose_eviction(
    residencies: Sequence[Residency[Owner]], machine: Machine, *, most: int, is_enough: Callable[[Machine], bool]
) -> list[Owner]:
    """Say which models have to go before another is loaded: idle ones only, least recently used first.

    1. As many as are too many for `most`, the new one counted.
    2. Further ones until `is_enough` accepts the machine with their memory free, or none is left. Should one that
       was chosen turn out not to be needed for that, it stays.
    """
    idle = sorted((r for r in residencies if not r.busy), key=lambda r: r.last_used)
    surplus = max(0, len(residencies) + 1 - most)
    chosen, candidates = idle[:surplus], idle[surplus:]
    base = freed(machine, chosen)
    extra: list[Residency[Owner]] = []
    while candidates and not is_enough(freed(base, extra)):
        extra.append(candidates.pop(0))
    if extra and is_enough(freed(base, extra)):
        for residency in list(extra):
            others = [kept for kept in extra if kept is not residency]
            if is_enough(freed(base, others)):
                extra = others
    return [residency.owner for residency in (*chosen, *extra)]


def freed(machine: Machine, residencies: Sequence[Residency[Owner]]) -> Machine:
    """The machine as it will be without these models."""
    gained: dict[str, int] = {}
    for residency in residencies:
        for device, count in residency.bytes_on:
            gained[device] = gained.get(device, 0) + count
    shared = sum(gained.get(gpu.name, 0) for gpu in machine.gpus if gpu.shares_ram)
    free = min(machine.ram.total_bytes, machine.ram.free_bytes + gained.get("CPU", 0) + shared)
    gpus = tuple(
        replace(gpu, free_bytes=min(gpu.total_bytes, gpu.free_bytes + gained.get(gpu.name, 0))) for gpu in machine.gpus
    )
    return Machine(ram=Ram(machine.ram.total_bytes, free), gpus=gpus)


def can_serve(
    asked: LoadOptions,
    loaded: LoadOptions,
    *,
    context_tokens: int,
    parallel: int,
    enough_tokens: int,
    train_tokens: int,
) -> bool:
    """Whether a model loaded with `loaded` does for a request with `asked`, or has to be loaded anew.

    1. The same options: always, whatever became of them.
    2. A smaller context is served on the larger one; a larger one needs a reload, up to what the model was
       trained for. Where none was asked for: what was loaded so too, or anything from `enough_tokens`.
    3. Fewer parallel sequences likewise.
    4. Where to run and how (GPU layers, threads, mapping): only if asked for and different.
    """
    if asked == loaded:
        return True
    if asked.num_ctx is None:
        if loaded.num_ctx is not None and context_tokens < enough_tokens:
            return False
    elif context_tokens < min(asked.num_ctx, train_tokens or asked.num_ctx):
        return False
    if (asked.parallel or 0) > parallel:
        return False
    pairs = (
        (asked.num_gpu, loaded.num_gpu),
        (asked.main_gpu, loaded.main_gpu),
        (asked.num_thread, loaded.num_thread),
        (asked.use_mmap, loaded.use_mmap),
        (asked.use_mlock, loaded.use_mlock),
    )
    return all(wanted is None or wanted == got for wanted, got in pairs)


def fewer_layers(layers: int) -> int | None:
    """How many GPU layers to try after that many did not load; None: nothing left to try."""
    return layers // 2 if layers > 0 else None


def retry_after_s(mean_job_s: float, parallel: int) -> int:
    """When a place in the queue is likely to be free: about the time between two requests' ends."""
    return min(LONGEST_RETRY_S, max(1, math.ceil(mean_job_s / max(1, parallel))))
