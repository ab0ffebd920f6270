"""From a model, a request's options and the settings to the runner's `LoadSpec`."""

from __future__ import annotations

from node.devices import Machine
from node.errors import DoesNotFit
from node.fit import ContextShape, LoadChoice, LoadWish, ModelShape, choose_load
from node.runner.protocol import LoadSpec
from node.settings import Settings
from node.supervisor.resident import Weights
from node.supervisor.types import LoadOptions

DEFAULT_BATCH_TOKENS = 512
MOST_BATCH_TOKENS = 1 << 16


def wish_of(options: LoadOptions, settings: Settings) -> LoadWish:
    """What a request and the operator ask for; the request wins."""
    num_gpu = options.num_gpu
    return LoadWish(
        context_tokens=options.num_ctx or settings.context_length,
        parallel=options.parallel or settings.num_parallel,
        main_gpu=options.main_gpu,
        most_layers=None if num_gpu is None or num_gpu < 0 else num_gpu,
        overhead_bytes=settings.gpu_overhead_bytes,
        spread=settings.spread_gpus,
    )


def base_context(options: LoadOptions, settings: Settings, *, embedding: bool) -> ContextShape:
    """What of a context's shape is not up to memory; its length and parallelism are chosen later."""
    batch = options.num_batch if options.num_batch and options.num_batch > 0 else DEFAULT_BATCH_TOKENS
    return ContextShape(
        context_tokens=0,
        batch_tokens=min(batch, MOST_BATCH_TOKENS),
        kv_type=settings.kv_cache_type,
        flash_attention=settings.flash_attention != "off",
        embedding=embedding,
        mmap=options.use_mmap is not False,
    )


def choose(
    shape: ModelShape, machine: Machine, options: LoadOptions, settings: Settings, weights: Weights
) -> LoadChoice:
    """Fit the model into the machine. Raises DoesNotFit."""
    base = base_context(options, settings, embedding=weights.embedding)
    return choose_load(shape, machine, wish_of(options, settings), base=base)


def fits_fully(shape: ModelShape, machine: Machine, options: LoadOptions, settings: Settings, weights: Weights) -> bool:
    """Whether the machine holds the model with every layer on a GPU that should be on one."""
    try:
        placement = choose(shape, machine, options, settings, weights).placement
    except DoesNotFit:
        return False
    wanted = placement.layer_count if options.num_gpu is None or options.num_gpu < 0 else options.num_gpu
    return not placement.layers_on or placement.gpu_layers >= min(wanted, placement.layer_count)


def spec_of(weights: Weights, choice: LoadChoice, options: LoadOptions, settings: Settings) -> LoadSpec:
    """What the runner is told."""
    context, placement = choice.context, choice.placement
    return LoadSpec(
        model_path=weights.path,
        context_tokens=context.context_tokens,
        parallel=context.parallel,
        batch_tokens=context.batch_tokens,
        kv_type=context.kv_type,
        flash_attention=settings.flash_attention,
        gpu_layers=placement.gpu_layers,
        tensor_split=placement.tensor_split,
        main_gpu=options.main_gpu or 0,
        threads=options.num_thread if options.num_thread and options.num_thread > 0 else None,
        mmap=context.mmap,
        mlock=bool(options.use_mlock),
        adapters=weights.adapters,
        template=weights.template,
        embedding=weights.embedding,
    )
