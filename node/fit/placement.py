"""Which layers go to which GPU, and what is left for the RAM.

llama.cpp offloads the *last* layers (the output layer being the very last) and deals them to the GPUs in ggml's
order, in runs as long as `tensor_split` says; so a placement is one number for each GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from node.devices import Device, Machine
from node.errors import DoesNotFit
from node.fit.memory import Estimate

# What a driver's context and its scratch memory take beside llama.cpp's own buffers (CUDA: 300 to 500 MiB).
GPU_RESERVE_BYTES = 512 << 20
# Pipelining over several GPUs keeps copies of the inputs.
_SPREAD_COMPUTE = 1.25


@dataclass(frozen=True, slots=True)
class Placement:
    """`layers_on[i]` layers on GPU i; bytes that must be free in RAM and on each GPU."""

    layers_on: tuple[int, ...]
    ram_bytes: int
    gpu_bytes: tuple[int, ...]
    layer_count: int

    @property
    def gpu_layers(self) -> int:
        """Layers not kept in RAM, the output layer counted."""
        return sum(self.layers_on)

    @property
    def tensor_split(self) -> tuple[float, ...]:
        """llama.cpp's word for `layers_on`; empty where there is nothing to split."""
        return tuple(float(count) for count in self.layers_on) if len(self.layers_on) > 1 and self.gpu_layers else ()

    @property
    def needed_bytes(self) -> int:
        """Over all devices."""
        return self.ram_bytes + sum(self.gpu_bytes)


def place(
    needs: Estimate,
    machine: Machine,
    *,
    overhead_bytes: int = 0,
    spread: bool = False,
    main_gpu: int | None = None,
    most_layers: int | None = None,
) -> Placement:
    """Offload as many layers as fit, on as few GPUs as hold them.

    1. All (or `most_layers`) on one GPU: `main_gpu`, else the roomiest; not with `spread`.
    2. All of them over all GPUs, in their order.
    3. As many of the last layers as the GPUs hold, the rest in RAM; none if not even one fits.

    Args:
        overhead_bytes: to be left free on each GPU.
        most_layers: not more than these; 0: everything stays in RAM.
    Raises: DoesNotFit: the RAM can't hold its part.
    """
    total = len(needs.layers)
    wanted = total if most_layers is None else min(most_layers, total)
    rooms = [max(0, gpu.free_bytes - overhead_bytes - GPU_RESERVE_BYTES) for gpu in machine.gpus]
    for count in range(wanted, 0, -1):
        for layers_on in _ways(needs, rooms, count, spread=spread, main_gpu=main_gpu):
            placement = _placement(needs, layers_on)
            if _fits_ram(placement, machine):
                return placement
    placement = _placement(needs, (0,) * len(machine.gpus))
    if not _fits_ram(placement, machine):
        raise DoesNotFit(placement.ram_bytes, machine.ram.free_bytes)
    return placement


def _ways(
    needs: Estimate, rooms: Sequence[int], count: int, *, spread: bool, main_gpu: int | None
) -> list[tuple[int, ...]]:
    """Deals of the last `count` layers that the GPUs hold, best first."""
    layers = needs.layers[len(needs.layers) - count :]
    ways = []
    if not spread:
        order = sorted(range(len(rooms)), key=lambda index: (index != main_gpu, -rooms[index]))
        whole = sum(layers) + needs.compute_bytes
        ways = [
            tuple(count if gpu == index else 0 for gpu in range(len(rooms))) for index in order if whole <= rooms[index]
        ]
    if len(rooms) > 1 and (dealt := _deal(layers, rooms, int(needs.compute_bytes * _SPREAD_COMPUTE), spread=spread)):
        ways.append(dealt)
    return ways


def _deal(layers: Sequence[int], rooms: Sequence[int], compute_bytes: int, *, spread: bool) -> tuple[int, ...] | None:
    """Fill GPU after GPU; with `spread` each only up to its share of all room."""
    share = sum(layers) / max(1, sum(max(0, room - compute_bytes) for room in rooms)) if spread else 1.0
    dealt, start = [], 0
    for index, room in enumerate(rooms):
        free = max(0, room - compute_bytes)
        aim = free * share if index < len(rooms) - 1 else free
        used, end = 0, start
        while end < len(layers) and used + layers[end] <= free and (used < aim if spread else True):
            used += layers[end]
            end += 1
        dealt.append(end - start)
        start = end
    return tuple(dealt) if start == len(layers) else None


def _placement(needs: Estimate, layers_on: tuple[int, ...]) -> Placement:
    total = len(needs.layers)
    kept = total - sum(layers_on)
    ram = needs.input_bytes + needs.host_bytes + sum(needs.layers_in_ram[:kept]) - sum(needs.reclaimable[:kept])
    if kept:
        ram += needs.compute_bytes
    gpu_bytes, start = [], kept
    for count in layers_on:
        gpu_bytes.append(sum(needs.layers[start : start + count]) + (needs.compute_bytes if count else 0))
        start += count
    return Placement(layers_on, ram, tuple(gpu_bytes), total)


def _fits_ram(placement: Placement, machine: Machine) -> bool:
    """Whether the RAM holds its part, and what integrated GPUs take of it."""
    shared = sum(_shared(gpu, used) for gpu, used in zip(machine.gpus, placement.gpu_bytes, strict=True))
    return placement.ram_bytes + shared <= machine.ram.free_bytes


def _shared(gpu: Device, used_bytes: int) -> int:
    return used_bytes if gpu.shares_ram else 0
