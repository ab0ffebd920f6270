"""The models that are measured: llama shapes with random weights, written once into the cache.

Their weights never choose a special token or a bare byte (those output rows are zero, and the largest of 31,000
random logits is not), so greedy output is printable words, and ends only where the budget says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType

from bench.random_blocks import BlockType, Bytes, random_rows
from bench.vocabulary import CHAT_TEMPLATE, SPECIALS, Vocabulary, vocabulary

SEED = 20250101
FORMAT = 1  # in the file name: another number makes cached files stale


@dataclass(frozen=True, slots=True)
class Shape:
    """A llama model's dimensions. `mixed`: Q4_K_M's mixture of Q4_K and Q6_K; else Q8_0 throughout."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary_size: int
    context_tokens: int
    tied: bool
    mixed: bool

    @property
    def kv_width(self) -> int:
        """Width of the keys (and values) of one token in one layer."""
        return self.width // self.heads * self.kv_heads

    @property
    def words(self) -> Vocabulary:
        """The tokens it knows."""
        return vocabulary(self.vocabulary_size)


HALF_BILLION = Shape("bench-0.5b", 24, 1024, 16, 4, 4864, 32_000, 8192, tied=False, mixed=True)
FIFTEEN_MILLION = Shape("bench-15m", 6, 288, 9, 9, 768, 32_000, 8192, tied=True, mixed=False)
SHAPES = (HALF_BILLION, FIFTEEN_MILLION)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix to be drawn: [rows, columns] in ggml's block layout `block`."""

    name: str
    rows: int
    columns: int
    block: BlockType
    silent_rows: int = 0


def matrices(shape: Shape) -> Iterator[Matrix]:
    """Say which matrices the model has, and in which layout, as llama.cpp's quantiser chooses for Q4_K_M."""
    high: BlockType = "Q6_K" if shape.mixed else "Q8_0"
    low: BlockType = "Q4_K" if shape.mixed else "Q8_0"
    silent = shape.words.first_word_id
    embedding = Matrix("token_embd.weight", shape.vocabulary_size, shape.width, low)
    if shape.tied:
        yield Matrix(embedding.name, embedding.rows, embedding.columns, low, silent)
    else:
        yield embedding
        yield Matrix("output.weight", shape.vocabulary_size, shape.width, high, silent)
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        better = high if _gets_more_bits(layer, shape.layers) else low
        yield Matrix(prefix + "attn_q.weight", shape.width, shape.width, low)
        yield Matrix(prefix + "attn_k.weight", shape.kv_width, shape.width, low)
        yield Matrix(prefix + "attn_v.weight", shape.kv_width, shape.width, better)
        yield Matrix(prefix + "attn_output.weight", shape.width, shape.width, low)
        yield Matrix(prefix + "ffn_gate.weight", shape.feed_forward, shape.width, low)
        yield Matrix(prefix + "ffn_up.weight", shape.feed_forward, shape.width, low)
        yield Matrix(prefix + "ffn_down.weight", shape.width, shape.feed_forward, better)


def _gets_more_bits(layer: int, layers: int) -> bool:
    """Q4_K_M keeps Q6_K for the first and last eighth, and for every third layer between (llama-quant.cpp)."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _norms(shape: Shape) -> list[str]:
    layers = range(shape.layers)
    return ["output_norm.weight", *(f"blk.{i}.{part}_norm.weight" for i in layers for part in ("attn", "ffn"))]


def model_path(shape: Shape, cache: Path) -> Path:
    """Where `write_model` puts it."""
    return cache / "models" / f"{shape.name}-v{FORMAT}.gguf"


def write_model(shape: Shape, cache: Path) -> Path:
    """Write the model, unless it is there already; the same bytes on every machine. Returns its path."""
    path = model_path(shape, cache)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = GGUFWriter(partial, "llama")
    _describe(writer, shape)
    drawn = list(matrices(shape))
    for name in _norms(shape):
        writer.add_tensor_info(name, [shape.width], np.dtype(np.float32), shape.width * 4)
    for matrix in drawn:
        kind = GGMLQuantizationType[matrix.block]
        like = _draw(np.random.default_rng(0), Matrix("", 1, matrix.columns, matrix.block))
        writer.add_tensor_info(
            matrix.name, [matrix.rows, like.nbytes], like.dtype, matrix.rows * like.nbytes, raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(SEED)
    for _ in _norms(shape):
        writer.write_tensor_data(np.ones(shape.width, np.float32))
    for matrix in drawn:
        writer.write_tensor_data(_draw(rng, matrix))
    writer.close()
    partial.replace(path)
    return path


def _draw(rng: np.random.Generator, matrix: Matrix) -> Bytes:
    std = 1 / math.sqrt(matrix.columns)
    return random_rows(rng, matrix.block, matrix.rows, matrix.columns, std=std, silent_rows=matrix.silent_rows)


def _describe(writer: GGUFWriter, shape: Shape) -> None:
    """The metadata that llama.cpp needs: dimensions and tokenizer."""
    writer.add_name(shape.name)
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_K_M if shape.mixed else LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(2)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(shape.vocabulary_size)
    words = shape.words
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(words.tokens))
    kinds = [TokenType.CONTROL if token in SPECIALS else TokenType.NORMAL for token in words.tokens]
    writer.add_token_types(kinds)
    writer.add_token_merges(list(words.merges))
    writer.add_eos_token_id(words.turn_end_id)
    writer.add_pad_token_id(words.end_of_text_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
