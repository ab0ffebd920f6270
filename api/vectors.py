"""Embeddings on the wire: little-endian float32 arrays in, JSON numbers or base64 out."""

from __future__ import annotations

import base64
import sys
from array import array


def floats(vector: bytes) -> list[float]:
    """The numbers of a vector."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def base64_text(vector: bytes) -> str:
    """OpenAI's `encoding_format: base64`: the very same bytes."""
    return base64.b64encode(vector).decode()
