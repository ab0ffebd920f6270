"""Write tiny random-weight GGUF models that llama.cpp loads: a llama, a BERT that embeds, a LoRA adapter.

They answer nonsense, but the same nonsense for the same seed, at thousands of tokens a second. Imported as
`tests.support.tiny_gguf`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType, PoolingType, TokenType

WeightType: TypeAlias = Literal["F32", "F16", "Q8_0"]

CHATML: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END_OF_TEXT, TURN_START, TURN_END, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = range(6)
CONTROL_TOKENS: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
)
# Six control tokens and every byte: any text can be written with them.
SMALLEST_VOCAB: Final = len(CONTROL_TOKENS) + 256


def write_tiny_llama(
    path: Path,
    *,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    kv_heads: int | None = None,
    vocab: int = 512,
    context: int = 512,
    seed: int = 0,
    chat_template: str | None = CHATML,
    pooling: Literal["mean", "cls", "last"] | None = None,
    fill_in_middle: bool = False,
    weights: WeightType = "F32",
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a llama-architecture model with a byte-level BPE that any text goes through and back.

    Args:
        width: a multiple of `heads`, and of 32 for Q8_0.
        vocab: at least SMALLEST_VOCAB; more are pairs of letters, with their merges.
        pooling: makes it an embedding model.
        extra: more metadata, integers and strings.
    """
    kv_heads = kv_heads or heads
    hidden = 2 * width
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_file_type(_file_type(weights))
    writer.add_vocab_size(vocab)
    _add_byte_pair_tokenizer(writer, vocab, fill_in_middle=fill_in_middle)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    if pooling is not None:
        writer.add_pooling_type(PoolingType[pooling.upper()])
    for key, value in (extra or {}).items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)

    random = _Weights(writer, seed, weights)
    kv_width = width // heads * kv_heads
    random.add("token_embd.weight", vocab, width)
    random.add("output.weight", vocab, width)
    random.add_ones("output_norm.weight", width)
    for block in range(layers):
        at = f"blk.{block}."
        random.add_ones(at + "attn_norm.weight", width)
        random.add(at + "attn_q.weight", width, width)
        random.add(at + "attn_k.weight", kv_width, width)
        random.add(at + "attn_v.weight", kv_width, width)
        random.add(at + "attn_output.weight", width, width)
        random.add_ones(at + "ffn_norm.weight", width)
        random.add(at + "ffn_gate.weight", hidden, width)
        random.add(at + "ffn_up.weight", hidden, width)
        random.add(at + "ffn_down.weight", width, hidden)
    return _finish(writer, path)


def write_tiny_bert(
    path: Path,
    *,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    context: int = 128,
    seed: int = 0,
    pooling: Literal["mean", "cls"] = "mean",
) -> Path:
    """Write a BERT that embeds lower-case text, letter by letter."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581{c}" for c in letters), *letters]
    hidden = 2 * width
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(path.stem)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType[pooling.upper()])
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 5 + [TokenType.NORMAL] * (len(tokens) - 5))
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_uint32("tokenizer.ggml.cls_token_id", 2)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)

    random = _Weights(writer, seed, "F32")
    random.add("token_embd.weight", len(tokens), width)
    random.add("position_embd.weight", context, width)
    random.add("token_types.weight", 2, width)
    random.add_norm("token_embd_norm", width)
    for block in range(layers):
        at = f"blk.{block}."
        for name, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", width, width),
            ("attn_v", width, width),
            ("attn_output", width, width),
            ("ffn_up", hidden, width),
            ("ffn_down", width, hidden),
        ):
            random.add(f"{at}{name}.weight", rows, columns)
            random.add(f"{at}{name}.bias", rows)
        random.add_norm(at + "attn_output_norm", width)
        random.add_norm(at + "layer_output_norm", width)
    return _finish(writer, path)


def write_tiny_adapter(
    path: Path, *, layers: int = 2, width: int = 64, rank: int = 4, seed: int = 1, strength: float = 8.0
) -> Path:
    """Write a LoRA adapter for a `write_tiny_llama` model of the same layers and width."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", strength * rank)
    random = _Weights(writer, seed, "F32")
    for block in range(layers):
        random.add(f"blk.{block}.attn_q.weight.lora_a", rank, width)
        random.add(f"blk.{block}.attn_q.weight.lora_b", width, rank)
    return _finish(writer, path)


class _Weights:
    """Adds tensors of random numbers, always the same for a seed."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int, kind: WeightType) -> None:
        self._writer, self._random, self._kind = writer, np.random.default_rng(seed), kind

    def add(self, name: str, *shape: int) -> None:
        # Wide enough that the likeliest token is clear, and that different prompts go different ways.
        values = self._random.standard_normal(shape, dtype=np.float32) * np.float32(2 / shape[-1] ** 0.5)
        if len(shape) == 1 or self._kind == "F32":
            self._writer.add_tensor(name, values)
        elif self._kind == "F16":
            self._writer.add_tensor(name, values.astype(np.float16))
        else:
            kind = GGMLQuantizationType[self._kind]
            self._writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def add_ones(self, name: str, width: int) -> None:
        self._writer.add_tensor(name, np.ones(width, dtype=np.float32))

    def add_norm(self, name: str, width: int) -> None:
        self.add_ones(f"{name}.weight", width)
        self._writer.add_tensor(f"{name}.bias", np.zeros(width, dtype=np.float32))


def _add_byte_pair_tokenizer(writer: gguf.GGUFWriter, vocab: int, *, fill_in_middle: bool) -> None:
    if vocab < SMALLEST_VOCAB:
        raise ValueError(f"a vocabulary has at least {SMALLEST_VOCAB} tokens")
    letters = "etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLUCMFWYPVBGKJQXZ0123456789"
    pairs = [(a, b) for a in letters for b in letters][: vocab - SMALLEST_VOCAB]
    if len(pairs) < vocab - SMALLEST_VOCAB:
        raise ValueError(f"a vocabulary has at most {SMALLEST_VOCAB + len(pairs)} tokens")
    tokens = [*CONTROL_TOKENS, *_byte_characters(), *(a + b for a, b in pairs)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    control = len(CONTROL_TOKENS)
    writer.add_token_types([TokenType.CONTROL] * control + [TokenType.NORMAL] * (len(tokens) - control))
    writer.add_token_merges([f"{a} {b}" for a, b in pairs] or ["e t"])
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(TURN_END)
    writer.add_eot_token_id(TURN_END)
    writer.add_add_bos_token(False)
    if fill_in_middle:
        writer.add_uint32("tokenizer.ggml.fim_pre_token_id", FIM_PREFIX)
        writer.add_uint32("tokenizer.ggml.fim_suf_token_id", FIM_SUFFIX)
        writer.add_uint32("tokenizer.ggml.fim_mid_token_id", FIM_MIDDLE)


def _byte_characters() -> list[str]:
    """The printable character that GPT-2's vocabulary has for each byte, in the order of the bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def _file_type(weights: WeightType) -> LlamaFileType:
    return LlamaFileType.ALL_F32 if weights == "F32" else LlamaFileType[f"MOSTLY_{weights}"]


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
