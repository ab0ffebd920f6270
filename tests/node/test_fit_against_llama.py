"""The estimate against what llama.cpp says it allocated, over the real runner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.models import FIFTEEN_MILLION, HALF_BILLION, write_model
from node.fit import ContextShape, ModelShape, estimate
from node.runner.protocol import Loaded, LoadSpec
from node.supervisor.runner import Runner
from registry import read_gguf_facts
from tests.support.tiny_gguf import write_tiny_bert


async def load(path: Path, context: ContextShape) -> Loaded:
    spec = LoadSpec(
        model_path=str(path), context_tokens=context.context_tokens, parallel=context.parallel,
        batch_tokens=context.batch_tokens, kv_type=context.kv_type,
        flash_attention="on" if context.flash_attention else "off", mmap=context.mmap, embedding=context.embedding,
    )  # fmt: skip
    runner, loaded = await Runner.start("tiny", spec, stall_limit_s=30)
    await runner.stop()
    return loaded


@pytest.fixture(scope="module", params=["like a 0.5 B model at Q4_K_M", "15 M at Q8_0"])
def llama(request: Any, tmp_path_factory: Any) -> Path:
    """The benchmark models' shapes; of the large one three of its 24 layers, each as wide."""
    large = replace(HALF_BILLION, layers=3)
    return write_model(FIFTEEN_MILLION if "15 M" in request.param else large, tmp_path_factory.mktemp("fit"))


@pytest.mark.parametrize(
    "context",
    [
        ContextShape(2048),
        ContextShape(8192, flash_attention=False),
        ContextShape(1000, parallel=4),
        ContextShape(4096, parallel=3, kv_type="q8_0", batch_tokens=256),
        ContextShape(8192, kv_type="q4_0", mmap=False),
    ],
    ids=str,
)
async def test_the_estimate_is_within_a_tenth_of_what_llama_allocates(llama: Path, context: ContextShape) -> None:
    loaded = await load(llama, context)
    needs = estimate(ModelShape.of(read_gguf_facts(llama)), context)
    (ram,) = loaded.allocated
    allocated = ram.model_bytes + ram.kv_bytes + ram.compute_bytes
    assert needs.ram_allocated_bytes == pytest.approx(allocated, rel=0.1)
    assert needs.compute_bytes + needs.host_bytes == pytest.approx(ram.compute_bytes, rel=0.1)
    assert loaded.context_tokens == context.context_tokens


async def test_an_encoder_is_not_estimated_too_small(tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "bert.gguf")
    context = ContextShape(256, embedding=True)
    (ram,) = (await load(path, context)).allocated
    needs = estimate(ModelShape.of(read_gguf_facts(path)), context)
    assert needs.ram_allocated_bytes >= (ram.model_bytes + ram.kv_bytes + ram.compute_bytes) * 0.9
