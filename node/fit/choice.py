"""Choose what the request left open: context length, sequences at the same time, and where the layers go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from node.devices import Machine
from node.errors import DoesNotFit
from node.fit.memory import ContextShape, estimate
from node.fit.placement import Placement, place
from node.fit.shape import ModelShape

GIB = 1 << 30
# Ollama's steps: a card of nominally 24 (48) GiB reports a little less.
CONTEXT_STEPS = ((47 * GIB, 262_144), (23 * GIB, 32_768), (0, 4_096))
SMALLEST_CONTEXT_TOKENS = 4
# More sequences than one make answers of several clients faster together, but each costs a cache of its own. Four
# take most of the gain of batching on small machines; and only where they leave a fifth of the memory free.
MOST_AUTO_PARALLEL = 4
_PARALLEL_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class LoadWish:
    """What is asked for; None: not asked, so chosen here. `most_layers` as in `place`."""

    context_tokens: int | None = None
    parallel: int | None = None
    main_gpu: int | None = None
    most_layers: int | None = None
    overhead_bytes: int = 0
    spread: bool = False


@dataclass(frozen=True, slots=True)
class LoadChoice:
    """How the model is to be loaded."""

    context: ContextShape
    placement: Placement


def default_context_tokens(machine: Machine, *, overhead_bytes: int = 0) -> int:
    """Ollama's default context length: by the memory of all GPUs (docs/context-length, envconfig.ContextLength)."""
    total = sum(max(0, gpu.total_bytes - overhead_bytes) for gpu in machine.gpus)
    return next(tokens for least, tokens in CONTEXT_STEPS if total >= least)


def choose_load(shape: ModelShape, machine: Machine, wish: LoadWish, *, base: ContextShape) -> LoadChoice:
    """Find the best way to load the model into what is free.

    1. Everything on GPUs (or in RAM where there are none), with the longest context that was asked for or is the
       default, and as many sequences as leave memory to spare.
    2. The same with a shorter context, down the default steps, where none was asked for.
    3. A part on GPUs, the rest in RAM, with the least that was asked for.

    Args:
        base: batch, cache type and kind of context; its context length and parallelism are replaced.
    Raises: DoesNotFit: not even that fits.
    """
    contexts = list(_contexts(shape, machine, wish))
    refusal: DoesNotFit | None = None
    for tokens in contexts:
        for parallel in _parallels(wish):
            context = replace(base, context_tokens=tokens, parallel=parallel)
            try:
                placement = _place(shape, context, machine, wish)
            except DoesNotFit as error:
                refusal = error
                continue
            last = tokens == contexts[-1] and parallel == _parallels(wish)[-1]
            if last or _is_roomy(placement, machine, wish, parallel):
                return LoadChoice(context, placement)
    assert refusal is not None  # the last candidate is taken if it can be placed at all
    raise refusal


def _contexts(shape: ModelShape, machine: Machine, wish: LoadWish) -> Iterator[int]:
    limit = shape.train_context_tokens or wish.context_tokens or CONTEXT_STEPS[-1][1]
    if wish.context_tokens is not None:
        yield max(SMALLEST_CONTEXT_TOKENS, min(wish.context_tokens, limit))
        return
    start = default_context_tokens(machine, overhead_bytes=wish.overhead_bytes)
    yield from sorted({min(tokens, limit) for _, tokens in CONTEXT_STEPS if tokens <= start}, reverse=True)


def _parallels(wish: LoadWish) -> tuple[int, ...]:
    return (wish.parallel,) if wish.parallel else tuple(range(MOST_AUTO_PARALLEL, 0, -1))


def _place(shape: ModelShape, context: ContextShape, machine: Machine, wish: LoadWish) -> Placement:
    return place(
        estimate(shape, context),
        machine,
        overhead_bytes=wish.overhead_bytes,
        spread=wish.spread,
        main_gpu=wish.main_gpu,
        most_layers=wish.most_layers,
    )


def _is_roomy(placement: Placement, machine: Machine, wish: LoadWish, parallel: int) -> bool:
    """Whether this much is worth taking: nothing asked for falls back to RAM, and extra sequences are affordable."""
    wanted = placement.layer_count if wish.most_layers is None else min(wish.most_layers, placement.layer_count)
    if machine.gpus and placement.gpu_layers < wanted:
        return False
    if parallel == 1 or wish.parallel:
        return True
    if placement.gpu_layers:
        pairs = [(used, gpu.free_bytes) for used, gpu in zip(placement.gpu_bytes, machine.gpus, strict=True) if used]
    else:
        pairs = [(placement.ram_bytes, machine.ram.free_bytes)]
    return all(used <= free * _PARALLEL_SHARE for used, free in pairs)
