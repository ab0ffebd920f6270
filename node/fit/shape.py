"""What matters of a model for its memory: bytes of weights and width of the context's state, layer by layer.

The rules are llama.cpp's own (llama-hparams.cpp, llama-kv-cache.cpp, llama-memory-recurrent.cpp of the locked
version): which layers keep keys and values, which keep a recurrent state, which keep both or nothing.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry import GgufFacts

_BLOCK = re.compile(r"(?:^|\.)blk\.(\d+)\.")
_F32_BYTES = 4
# Types whose rows the CPU backend interleaves into a copy of its own (ggml-cpu/repack.cpp), with AVX2 or NEON.
_REPACKED = {
    "x86_64": frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}),
    "arm64": frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"}),
}
_REPACK_ROWS = 8


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer: bytes of its weights (`repacked_bytes`: of the copy the CPU makes of them), elements that a token
    leaves in the K and in the V cache, and bytes of recurrent state that a sequence holds."""

    weight_bytes: int
    repacked_bytes: int = 0
    key_elements: int = 0
    value_elements: int = 0
    state_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model's layers and what stands around them.

    Attributes:
        input_bytes: weights that always stay in RAM, the token embeddings above all.
        output: the output layer, which counts as one more layer; `tied`: it is the token embeddings again, which
            takes memory a second time only on a GPU.
        width: of the hidden state; `inner_width`: of the widest feed-forward that one token passes at once.
        query_width, key_width: of all heads of the widest layer together.
        causal: False for encoders, which have no cache.
    """

    layers: tuple[LayerShape, ...]
    input_bytes: int
    output: LayerShape
    tied: bool
    width: int
    inner_width: int
    heads: int
    query_width: int
    key_width: int
    vocab_size: int
    train_context_tokens: int
    causal: bool = True

    @classmethod
    def of(cls, facts: GgufFacts, *, machine: str | None = None) -> ModelShape:
        """Read the shape from GGUF facts; `machine`: processor family, None: this one's."""
        repacked = _REPACKED.get(_family(platform.machine() if machine is None else machine), frozenset())
        count = facts.block_count
        weights, copies = [0] * count, [0] * count
        input_bytes = output_bytes = output_copies = 0
        tied = True
        for tensor in facts.tensors:
            rows = tensor.shape[1] if len(tensor.shape) > 1 else 0
            copied = tensor.size_bytes if tensor.type in repacked and rows and rows % _REPACK_ROWS == 0 else 0
            if (match := _BLOCK.search(tensor.name)) and int(match[1]) < count:
                weights[int(match[1])] += tensor.size_bytes
                copies[int(match[1])] += copied
            elif tensor.name.startswith("output"):
                output_bytes += tensor.size_bytes
                output_copies += copied
                tied = tied and tensor.name != "output.weight"
            else:
                input_bytes += tensor.size_bytes
        if tied:
            output_bytes += sum(t.size_bytes for t in facts.tensors if t.name == "token_embd.weight")
        heads = max(facts.head_counts, default=0)
        return cls(
            layers=tuple(_layer(facts, index, weights[index], copies[index]) for index in range(count)),
            input_bytes=input_bytes,
            output=LayerShape(output_bytes, output_copies),
            tied=tied,
            width=facts.embedding_length,
            inner_width=_inner_width(facts),
            heads=heads,
            query_width=max(heads * facts.key_length, facts.embedding_length),
            key_width=max(facts.kv_head_counts, default=0) * facts.key_length,
            vocab_size=facts.vocab_size,
            train_context_tokens=facts.context_length,
            causal=facts.causal,
        )


def _family(machine: str) -> str:
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(machine.lower(), machine.lower())


def _layer(facts: GgufFacts, index: int, weight_bytes: int, repacked_bytes: int) -> LayerShape:
    kv_heads = facts.kv_head_counts[index] if index < len(facts.kv_head_counts) else 0
    recurrent = _is_recurrent(facts, index, kv_heads)
    attends = facts.causal and kv_heads > 0 and not (recurrent and _alternates(facts)) and _owns_cache(facts, index)
    key, value = _head_lengths(facts, index)
    return LayerShape(
        weight_bytes,
        repacked_bytes,
        key_elements=kv_heads * key if attends else 0,
        # With multi-head latent attention the values are a part of the keys.
        value_elements=kv_heads * value if attends and not facts.of_architecture("attention.key_length_mla") else 0,
        state_bytes=_state_elements(facts) * _F32_BYTES if recurrent else 0,
    )


def _is_recurrent(facts: GgufFacts, index: int, kv_heads: int) -> bool:
    """Whether the layer keeps a recurrent state: by an explicit list, an interval, or for want of KV heads."""
    if not _state_elements(facts):
        return False
    if (listed := facts.arrays.get(f"{facts.architecture}.attention.recurrent_layers")) and listed.values:
        return index < len(listed.values) and bool(listed.values[index])
    if interval := _number(facts, "full_attention_interval"):
        return (index + 1) % interval != 0
    return kv_heads == 0 or not _alternates(facts)


def _alternates(facts: GgufFacts) -> bool:
    """Whether each layer either attends or recurs; Falcon-H1's do both."""
    return facts.architecture != "falcon-h1"


def _owns_cache(facts: GgufFacts, index: int) -> bool:
    """Whether the layer has keys and values of its own; the last ones of some models reuse earlier ones'."""
    return index < facts.block_count - _number(facts, "attention.shared_kv_layers")


def _head_lengths(facts: GgufFacts, index: int) -> tuple[int, int]:
    """Key and value length of a head; sliding-window layers may have their own."""
    key, value = facts.key_length, facts.value_length
    pattern = facts.arrays.get(f"{facts.architecture}.attention.sliding_window_pattern")
    if pattern and index < len(pattern.values) and pattern.values[index]:
        key = _number(facts, "attention.key_length_swa") or key
        value = _number(facts, "attention.value_length_swa") or value
    return key, value


def _state_elements(facts: GgufFacts) -> int:
    """Elements of recurrent state of one sequence in one layer: Mamba's, RWKV's or the short convolution's."""
    if state := facts.recurrent:
        convolution = max(0, state.conv_kernel - 1) * (state.inner_size + 2 * state.group_count * state.state_size)
        return convolution + state.state_size * state.inner_size
    if head_size := _number(facts, "wkv.head_size"):
        shifts = _number(facts, "token_shift_count") or 2
        return facts.embedding_length * (shifts + head_size)
    if length := _number(facts, "shortconv.l_cache"):
        return facts.embedding_length * (length - 1)
    return 0


def _inner_width(facts: GgufFacts) -> int:
    """Width of the feed-forward that a token passes: dense, or that of the experts used at once."""
    dense = max(facts.feed_forward_lengths, default=0)
    experts = facts.expert_used_count * (_number(facts, "expert_feed_forward_length") or dense)
    return max(dense, experts)


def _number(facts: GgufFacts, key: str) -> int:
    value = facts.of_architecture(key)
    return int(value) if isinstance(value, int | float) else 0
