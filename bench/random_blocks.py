"""Random weights, made directly in ggml's quantised block layouts: no float tensor and no quantiser involved.

Speed depends on the layout alone, so this gives the same benchmark as a quantised model would, in seconds.
Block layouts: ggml-common.h of llama.cpp (block_q8_0, block_q4_K, block_q6_K).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

BlockType: TypeAlias = Literal["Q8_0", "Q4_K", "Q6_K"]
Bytes: TypeAlias = NDArray[np.uint8]

BLOCK_WEIGHTS: dict[BlockType, int] = {"Q8_0": 32, "Q4_K": 256, "Q6_K": 256}
BLOCK_BYTES: dict[BlockType, int] = {"Q8_0": 34, "Q4_K": 144, "Q6_K": 210}

# Standard deviations of uniform quants, and the mean of the sub-block scales drawn below.
_Q8_STD, _Q4_STD, _Q6_STD = 73.9, 4.61, 18.47
_Q4_SCALE, _Q6_SCALE = 11.5, 5.5


def random_rows(
    rng: np.random.Generator, block: BlockType, rows: int, columns: int, *, std: float, silent_rows: int = 0
) -> Bytes:
    """Random weights with mean near 0 and standard deviation near `std`.

    Args:
        columns: weights in a row; a multiple of the block's length.
        silent_rows: so many rows at the start are exactly zero: tokens that greedy sampling never picks.
    Returns: [rows, bytes of a row].
    Raises: ValueError: `columns` is not a whole number of blocks.
    """
    blocks, rest = divmod(columns, BLOCK_WEIGHTS[block])
    if rest:
        raise ValueError(f"{columns} columns are not a whole number of {block} blocks")
    raw = np.frombuffer(rng.bytes(rows * blocks * BLOCK_BYTES[block]), np.uint8).copy()
    raw = raw.reshape(rows, blocks, BLOCK_BYTES[block])
    match block:
        case "Q8_0":
            raw[..., 0:2] = _half(std / _Q8_STD)
            raw[:silent_rows, :, 0:2] = 0
        case "Q4_K":
            step = std / (_Q4_STD * _Q4_SCALE)
            raw[..., 0:2] = _half(step)
            raw[..., 2:4] = _half(7.5 * step)  # the minimum: quants 0..15 centre on 0
            # Scale and minimum of a sub-block are one number, 8..15; below 16 the packing has no high bits.
            scales = raw[..., 4:12] & 7 | 8
            raw[..., 4:8] = raw[..., 8:12] = scales[..., :4]
            raw[..., 12:16] = scales[..., 4:] * 17
            raw[:silent_rows, :, 0:4] = 0
        case "Q6_K":
            raw[..., 192:208] = raw[..., 192:208] & 3 | 4
            raw[..., 208:210] = _half(std / (_Q6_STD * _Q6_SCALE))
            raw[:silent_rows, :, 208:210] = 0
    return raw.reshape(rows, blocks * BLOCK_BYTES[block])


def _half(value: float) -> Bytes:
    return np.array([value], "<f2").view(np.uint8)
