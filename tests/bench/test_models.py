from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
import pytest

from bench.models import FIFTEEN_MILLION, HALF_BILLION, Shape, matrices, write_model
from bench.random_blocks import BLOCK_WEIGHTS, BlockType, random_rows

TINY = Shape("tiny", 3, 256, 4, 2, 512, 700, 128, tied=False, mixed=True)


@pytest.mark.parametrize("block", ["Q8_0", "Q4_K", "Q6_K"])
def test_random_rows_have_the_spread_asked_for_and_silent_rows_are_zero(block: BlockType) -> None:
    raw = random_rows(np.random.default_rng(1), block, 200, 512, std=0.05, silent_rows=3)
    weights = gguf.dequantize(raw, gguf.GGMLQuantizationType[block])
    assert weights.shape == (200, 512)
    assert not weights[:3].any()
    assert weights[3:].std() == pytest.approx(0.05, rel=0.05)
    assert abs(weights[3:].mean()) < 0.003


def test_rows_that_are_no_whole_number_of_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks"):
        random_rows(np.random.default_rng(1), "Q4_K", 1, 300, std=1.0)


@pytest.mark.parametrize(("shape", "parameters"), [(HALF_BILLION, 0.5e9), (FIFTEEN_MILLION, 15e6)])
def test_the_shapes_have_the_parameters_their_names_say(shape: Shape, parameters: float) -> None:
    drawn = list(matrices(shape))
    assert sum(matrix.rows * matrix.columns for matrix in drawn) == pytest.approx(parameters, rel=0.05)
    assert all(matrix.columns % BLOCK_WEIGHTS[matrix.block] == 0 for matrix in drawn)


def test_a_written_model_can_be_read_and_never_prefers_a_special_token(tmp_path: Path) -> None:
    path = write_model(TINY, tmp_path)
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 7 * TINY.layers + 2 + 2 * TINY.layers + 1
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["tokenizer.ggml.tokens"].contents() == list(TINY.words.tokens)
    output = tensors["output.weight"]
    weights = gguf.dequantize(output.data, output.tensor_type)
    assert weights.shape == (TINY.vocabulary_size, TINY.width)
    assert not weights[: TINY.words.first_word_id].any()
    assert weights[TINY.words.first_word_id :].std() == pytest.approx(1 / math.sqrt(TINY.width), rel=0.05)


def test_the_same_model_is_written_everywhere_and_only_once(tmp_path: Path) -> None:
    first, second = (write_model(TINY, tmp_path / name) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    written = first.stat().st_mtime_ns
    assert write_model(TINY, tmp_path / "a").stat().st_mtime_ns == written
