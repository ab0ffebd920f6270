"""Synthetic clusters to measure routing on: mixed machines, models of common sizes, some in memory, more on disk."""

from __future__ import annotations

import random

from coordinator.cost import RouteRequest
from coordinator.view import (
    DeviceReport,
    HeldModel,
    NodeReport,
    PrefixHash,
    RamReport,
    ResidentModel,
    View,
    WeightsDigest,
)
from node.footprint import Footprint
from node.identity import NodeId
from node.report import ManifestDigest

GIB = 1 << 30
MODEL_GIB = (0.4, 0.9, 2.0, 4.7, 8.9, 20.0)
GPU_GIB = (0, 0, 8, 12, 24, 48)
PREFIXES_OF_ONE = 128
MARKS_OF_ONE = 32


def model_digest(number: int) -> WeightsDigest:
    return WeightsDigest(f"sha256:{number:064x}")


def footprint(number: int) -> Footprint:
    size = int(MODEL_GIB[number % len(MODEL_GIB)] * GIB)
    return Footprint(
        file_bytes=size,
        layer_bytes=int(size * 0.95),
        input_bytes=int(size * 0.05),
        kv_bytes=size // 40_000,
        compute_bytes=300 << 20,
        train_context_tokens=131_072,
    )


def synthetic_view(nodes: int, models: int, seed: int = 1) -> View:
    """A cluster at work: every node holds a share of the models and has a few of them loaded and busy.

    Model 0 is everybody's favourite: a quarter of the nodes have it loaded.
    """
    chance = random.Random(seed)
    reports = {NodeId(f"{number:016x}"): _report(number, models, chance) for number in range(nodes)}
    return View(reports, dict.fromkeys(reports, 0.0), next(iter(reports)))


def _report(number: int, models: int, chance: random.Random) -> NodeReport:
    gpu_bytes = chance.choice(GPU_GIB) * GIB
    ram_bytes = chance.choice((16, 32, 64)) * GIB
    held = sorted({0, *chance.sample(range(models), max(2, models // 8))})
    loaded = {*chance.sample(held[1:], chance.randint(1, 4)), *([0] if number % 4 == 0 else [])}
    resident = tuple(_resident(model, bool(gpu_bytes), chance) for model in sorted(loaded))
    used = sum(model.size_bytes for model in resident)
    free_gpu = max(0, gpu_bytes - used)
    devices = (DeviceReport(name="CUDA0", total_bytes=gpu_bytes, free_bytes=free_gpu),) if gpu_bytes else ()
    return NodeReport(
        node=NodeId(f"{number:016x}"),
        name=f"machine-{number}",
        address=f"198.18.77.{number % 250}:11435",
        devices=devices,
        ram=RamReport(total_bytes=ram_bytes, free_bytes=max(GIB, ram_bytes - (0 if gpu_bytes else used))),
        resident=resident,
        held=tuple(
            HeldModel(
                digest=model_digest(model),
                manifest=ManifestDigest(model_digest(model)),
                name=f"model-{model}:latest",
                size_bytes=footprint(model).file_bytes,
                present_bytes=footprint(model).file_bytes,
            )
            for model in held
        ),
        link_bytes_s=chance.choice((12e6, 110e6, 280e6)),
        load_bytes_s=chance.uniform(0.3e9, 3e9),
        prefill_bytes_s=chance.uniform(2e12, 2e13) if gpu_bytes else chance.uniform(0.5e11, 3e11),
        sequence=1,
    )


def _resident(number: int, on_gpu: bool, chance: random.Random) -> ResidentModel:
    size = int(footprint(number).file_bytes * 1.2)
    parallel = chance.choice((1, 2, 4))
    return ResidentModel(
        digest=model_digest(number),
        manifest=ManifestDigest(model_digest(number)),
        name=f"model-{number}:latest",
        context_tokens=chance.choice((4096, 8192, 32_768)),
        parallel=parallel,
        default_context=True,
        size_bytes=size,
        gpu_bytes=size if on_gpu else 0,
        active=chance.randint(0, parallel),
        queued=chance.choice((0, 0, 0, 1, 3)),
        backlog_tokens=chance.choice((0, 0, 500, 4000)),
        prefixes=frozenset(PrefixHash(chance.getrandbits(64)) for _ in range(PREFIXES_OF_ONE)),
        prefill_tokens_s=chance.uniform(100, 5000),
        mean_job_s=chance.uniform(1, 20),
        idle_s=chance.uniform(0, 600),
    )


def synthetic_request(number: int, seed: int) -> RouteRequest:
    """A long conversation for a model; its prefix is nowhere, which takes the longest to find out."""
    chance = random.Random(seed)
    tokens = sorted(chance.sample(range(1, 8000), MARKS_OF_ONE))
    return RouteRequest(
        model_digest(number),
        prompt_tokens=8000,
        prefix_hashes=tuple(PrefixHash(chance.getrandbits(64)) for _ in range(MARKS_OF_ONE)),
        prefix_tokens=tuple(tokens),
        context_tokens=8192,
        footprint=footprint(number),
        may_wait=True,
    )
