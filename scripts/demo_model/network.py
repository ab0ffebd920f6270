"""The network: llama's, small. RMS norms, rotary positions, grouped-query attention, SwiGLU.

A head's values are rotated in pairs (i, i + half), which is quick here; `export` reorders them to llama.cpp's pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network; every row is a multiple of 32 so that Q8_0 can hold it."""

    vocabulary: int = 1024
    width: int = 256
    layers: int = 4
    heads: int = 4
    key_heads: int = 2
    feed_forward: int = 768
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Values per attention head."""
        return self.width // self.heads


class Layer(nn.Module):  # type: ignore[misc]  # torch is not there where types are checked
    """Attention, then the feed-forward part, each on a normed copy and added back."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        rows = (shape.heads + 2 * shape.key_heads) * shape.head_width
        self.attention_norm = nn.Parameter(torch.ones(shape.width))
        self.query_key_value = nn.Parameter(torch.randn(rows, shape.width) * shape.width**-0.5)
        self.attention_out = nn.Parameter(torch.zeros(shape.width, shape.width))
        self.feed_norm = nn.Parameter(torch.ones(shape.width))
        self.gate_up = nn.Parameter(torch.randn(2 * shape.feed_forward, shape.width) * shape.width**-0.5)
        self.down = nn.Parameter(torch.zeros(shape.width, shape.feed_forward))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """x: [batch, time, width]; turn: cosine and sine of each position; bias: added to the attention scores."""
        shape = self.shape
        normed = functional.rms_norm(x, (shape.width,), self.attention_norm, shape.norm_epsilon)
        joined = functional.linear(normed, self.query_key_value)
        sizes = [shape.heads * shape.head_width, shape.key_heads * shape.head_width, shape.key_heads * shape.head_width]
        query, key, value = (
            part.unflatten(-1, (-1, shape.head_width)).transpose(1, 2) for part in joined.split(sizes, dim=-1)
        )
        repeats = shape.heads // shape.key_heads
        key = rotate(key, turn).repeat_interleave(repeats, dim=1)
        value = value.repeat_interleave(repeats, dim=1)
        # Written out: on a CPU and at these sizes it takes a third of the time of the fused function.
        with torch.autocast("cpu", enabled=False):
            scores = rotate(query, turn) @ key.transpose(-1, -2) * shape.head_width**-0.5 + bias
            seen = scores.softmax(-1) @ value
        x = x + functional.linear(seen.transpose(1, 2).flatten(2), self.attention_out)
        normed = functional.rms_norm(x, (shape.width,), self.feed_norm, shape.norm_epsilon)
        gate, up = functional.linear(normed, self.gate_up).chunk(2, dim=-1)
        return x + functional.linear(functional.silu(gate) * up, self.down)


class Network(nn.Module):  # type: ignore[misc]
    """Token ids to logits; the embedding serves as the output matrix too."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocabulary, shape.width) * 0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.Parameter(torch.ones(shape.width))

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """ids, positions: [batch, time]; mask: [batch, 1, time, time]. Returns logits [batch, time, vocabulary]."""
        x = functional.embedding(ids, self.embedding)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        turn = self._turn(positions, dtype)
        bias = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -1e4)
        for layer in self.layers:
            x = layer(x, turn, bias)
        x = functional.rms_norm(x, (self.shape.width,), self.output_norm, self.shape.norm_epsilon)
        return functional.linear(x, self.embedding)

    def _turn(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        half = self.shape.head_width // 2
        frequency = self.shape.rope_base ** (-torch.arange(half, dtype=torch.float32) / half)
        angle = positions[:, None, :, None].float() * frequency
        return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs of values by their position: x is [batch, heads, time, head width]."""
    cosine, sine = turn
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1)
