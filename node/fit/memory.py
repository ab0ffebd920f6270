"""Bytes a loaded model takes: weights, cache, compute buffers, as llama.cpp will allocate them for our engine.

The engine gives each sequence a cache of its own and full size, evaluates a whole batch at once and reserves
logits for one token a sequence (node/engine/binding.py); the sizes follow. The compute buffer is what ggml's
allocator needs at the widest point of a layer. Its factors were fitted to the locked llama.cpp over two llama
shapes, contexts of 1,024 to 8,192, batches of 128 to 2,048, with and without flash attention: within 6 %, the
cache exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.fit.shape import LayerShape, ModelShape
from node.runner.protocol import KvType

CONTEXT_STEP_TOKENS = 256  # llama.cpp rounds every sequence's cache up to it
SMALLEST_ENCODER_BATCH = 512
_F16_BYTES, _F32_BYTES = 2, 4
# Bytes of a block of 32 elements.
_KV_BLOCK_BYTES: dict[KvType, int] = {"f16": 64, "q8_0": 34, "q4_0": 18}
_KV_BLOCK = 32


@dataclass(frozen=True, slots=True)
class ContextShape:
    """How much a loaded model can work on at once. `context_tokens` is per sequence."""

    context_tokens: int
    parallel: int = 1
    batch_tokens: int = 512
    kv_type: KvType = "f16"
    flash_attention: bool = True
    embedding: bool = False
    mmap: bool = True

    @property
    def padded_context_tokens(self) -> int:
        """Cells of one sequence's cache."""
        return -(-self.context_tokens // CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes by place. `layers` are weights and cache of each layer, the output layer last.

    Attributes:
        layers_in_ram: the same for layers that stay in RAM, where the CPU keeps a second, interleaved form of
            some weights; `reclaimable` of these bytes are clean file pages that the kernel drops when it must.
        input_bytes: always in RAM.
        compute_bytes: on each device that has a layer. `host_bytes`: in RAM in any case.
    """

    layers: tuple[int, ...]
    layers_in_ram: tuple[int, ...]
    reclaimable: tuple[int, ...]
    input_bytes: int
    compute_bytes: int
    host_bytes: int

    @property
    def ram_allocated_bytes(self) -> int:
        """What llama.cpp allocates (or maps) if everything stays in RAM."""
        return sum(self.layers_in_ram) + self.input_bytes + self.compute_bytes + self.host_bytes

    @property
    def ram_needed_bytes(self) -> int:
        """What must be free if everything stays in RAM."""
        return self.ram_allocated_bytes - sum(self.reclaimable)


def estimate(shape: ModelShape, context: ContextShape) -> Estimate:
    """Add up what the model needs for this context."""
    states = [_state_bytes(layer, shape, context) for layer in (*shape.layers, shape.output)]
    layers = [*shape.layers, shape.output]
    copies = [layer.repacked_bytes if context.mmap else 0 for layer in layers]
    in_ram = [layer.weight_bytes + state + copy for layer, state, copy in zip(layers, states, copies, strict=True)]
    if shape.tied:
        in_ram[-1] -= min(in_ram[-1], _tied_bytes(shape))
    tokens = _batch_tokens(shape, context)
    outputs = tokens if context.embedding else context.parallel
    return Estimate(
        layers=tuple(layer.weight_bytes + state for layer, state in zip(layers, states, strict=True)),
        layers_in_ram=tuple(in_ram),
        reclaimable=tuple(copies),
        input_bytes=shape.input_bytes,
        compute_bytes=_compute_bytes(shape, context, tokens, outputs),
        host_bytes=_F32_BYTES * max(outputs, context.parallel) * shape.vocab_size,
    )


def _tied_bytes(shape: ModelShape) -> int:
    """The output layer's share that is the token embeddings: in RAM they exist once."""
    return min(shape.output.weight_bytes, shape.input_bytes)


def _state_bytes(layer: LayerShape, shape: ModelShape, context: ContextShape) -> int:
    if not shape.causal:
        return 0
    block = _KV_BLOCK_BYTES[context.kv_type]
    cells = context.padded_context_tokens * context.parallel
    # Without flash attention the values are kept transposed, which changes nothing in their size.
    kv = (layer.key_elements + layer.value_elements) * cells * block // _KV_BLOCK
    return kv + layer.state_bytes * context.parallel


def _batch_tokens(shape: ModelShape, context: ContextShape) -> int:
    """Tokens that one evaluation takes at most."""
    batch = max(context.batch_tokens, context.parallel)
    if shape.causal:
        return min(batch, context.padded_context_tokens * context.parallel)
    return max(batch, context.context_tokens, SMALLEST_ENCODER_BATCH)


def _compute_bytes(shape: ModelShape, context: ContextShape, tokens: int, outputs: int) -> int:
    """The widest moment of an evaluation: in attention, in the feed-forward, or at the output."""
    seen = context.padded_context_tokens if shape.causal else tokens
    mask = tokens * seen * (_F16_BYTES if context.flash_attention else _F32_BYTES)
    feed_forward = tokens * (4 * shape.width + 3 * shape.inner_width) * _F32_BYTES
    attention = tokens * (2 * shape.width + 3 * shape.query_width + 2 * shape.key_width) * _F32_BYTES
    if not context.flash_attention:
        attention += tokens * seen * shape.heads * _F32_BYTES
    logits = outputs * shape.vocab_size * _F32_BYTES if shape.causal else 0
    output = logits + 2 * tokens * shape.width * _F32_BYTES
    return max(mask + feed_forward, mask + attention, output)
