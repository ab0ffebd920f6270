"""Carry a load out: start the runner, and with fewer GPU layers again if that fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from node.devices import Machine
from node.errors import DoesNotFit, LoadFailure
from node.fit import LoadChoice, ModelShape, Placement, estimate, place
from node.settings import Settings
from node.supervisor.plan import spec_of
from node.supervisor.policy import fewer_layers
from node.supervisor.resident import Claims, Resident, Weights
from node.supervisor.runner import Runner
from node.supervisor.types import LoadOptions

if TYPE_CHECKING:
    from registry import Model

log = logging.getLogger(__name__)


async def start_resident(
    model: Model,
    weights: Weights,
    shape: ModelShape,
    choice: LoadChoice,
    machine: Machine,
    options: LoadOptions,
    settings: Settings,
    *,
    claims: Claims,
    keep_alive_s: float,
    command: Sequence[str] | None,
    hang_limit_s: float,
) -> Resident:
    """Load the model as chosen.

    A failure with layers on a GPU may well be its memory (drivers do not say so reliably), so half of the layers
    are tried then, and at last none. Raises: LoadFailure: of the last attempt.
    """
    while True:
        spec = spec_of(weights, choice, options, settings)
        try:
            runner, info = await Runner.start(
                str(model.name), spec, stall_limit_s=settings.load_timeout_s, command=command, hang_limit_s=hang_limit_s
            )
        except LoadFailure as failure:
            placement = _smaller(shape, choice, machine, options, settings)
            if placement is None:
                raise
            log.warning(
                "model=%s gpu_layers=%d failed: %s; trying gpu_layers=%d",
                model.name,
                choice.placement.gpu_layers,
                failure,
                placement.gpu_layers,
            )
            choice = replace(choice, placement=placement)
            continue
        log.info(
            "loaded model=%s pid=%d context_tokens=%d parallel=%d gpu_layers=%d/%d took_s=%.1f estimated_bytes=%d "
            "allocated_bytes=%d",
            model.name, runner.pid, info.context_tokens, spec.parallel, spec.gpu_layers,
            choice.placement.layer_count, info.load_ns / 1e9, choice.placement.needed_bytes,
            sum(d.model_bytes + d.kv_bytes + d.compute_bytes for d in info.allocated),
        )  # fmt: skip
        return Resident(
            model,
            weights,
            runner,
            info,
            options=options,
            parallel=spec.parallel,
            gpu_names=[gpu.name for gpu in machine.gpus],
            claims=claims,
            keep_alive_s=keep_alive_s,
        )


def _smaller(
    shape: ModelShape, choice: LoadChoice, machine: Machine, options: LoadOptions, settings: Settings
) -> Placement | None:
    """The same load with fewer layers on GPUs; None: none were, or the RAM can't take them."""
    layers = fewer_layers(choice.placement.gpu_layers)
    if layers is None:
        return None
    try:
        return place(
            estimate(shape, choice.context),
            machine,
            overhead_bytes=settings.gpu_overhead_bytes,
            spread=settings.spread_gpus,
            main_gpu=options.main_gpu,
            most_layers=layers,
        )
    except DoesNotFit:
        return None
