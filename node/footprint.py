"""What a model takes in memory, as a few numbers that can travel: how much for which context, on which kind of place.

Whoever holds a model's manifest knows its layers and tells these numbers; whoever routes a request for it may hold
nothing of the model. node.fit knows the same layer by layer, and decides when the model is really loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from node.fit import ContextShape, ModelShape

# llama.cpp rounds every sequence's cache up to it.
CONTEXT_STEP_TOKENS = 256
FULL_BATCH_CONTEXT = 4 * CONTEXT_STEP_TOKENS
# Where no context is asked for, a node takes the longest of its default steps that fits; this is the shortest.
SMALLEST_DEFAULT_CONTEXT = 4096
Size: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 53)]


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of one load: `layer_bytes` anywhere, `fixed_bytes` in RAM, `compute_bytes` on each device with layers."""

    layer_bytes: int
    fixed_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it, on one device."""
        return self.layer_bytes + self.fixed_bytes + self.compute_bytes


class Footprint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model takes: bytes for each place, and how they grow with the context.

    Attributes:
        file_bytes: to fetch and to read.
        layer_bytes: weights of all layers, the output layer among them; they can go to GPUs.
        input_bytes: weights that stay in RAM.
        kv_bytes: of one token of one sequence, over all layers; `state_bytes`: of a sequence, whatever its length.
        compute_bytes: on each device with a layer, plus `compute_bytes_per_token` of context.
        host_bytes: in RAM in any case.
        train_context_tokens: more is never given; 0: unknown.
    """

    file_bytes: Size
    layer_bytes: Size
    input_bytes: Size = 0
    kv_bytes: Size = 0
    state_bytes: Size = 0
    compute_bytes: Size = 0
    compute_bytes_per_token: Size = 0
    host_bytes: Size = 0
    train_context_tokens: Size = 0

    @classmethod
    def of(cls, shape: ModelShape, base: ContextShape, *, file_bytes: int) -> Footprint:
        """Sum up node.fit's estimate.

        Compute memory is convex in the context, so the line drawn here between both ends of what the model can do is
        never too low in between.

        Args:
            base: batch, cache type and kind of context; its length and parallelism are replaced.
        """
        from node.fit import estimate  # a node that only routes needs none of it

        # Between a context that takes a whole batch and the longest one.
        shortest = FULL_BATCH_CONTEXT
        longest = max(2 * shortest, -(-shape.train_context_tokens // CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS)
        short = estimate(shape, replace(base, context_tokens=shortest, parallel=1))
        long = estimate(shape, replace(base, context_tokens=longest, parallel=1))
        twice = estimate(shape, replace(base, context_tokens=shortest, parallel=2))
        kv = -(-(sum(long.layers) - sum(short.layers)) // (longest - shortest))
        compute = max(0, -(-(long.compute_bytes - short.compute_bytes) // (longest - shortest)))
        state = max(0, sum(twice.layers) - sum(short.layers) - kv * shortest)
        return cls(
            file_bytes=file_bytes,
            layer_bytes=max(0, sum(short.layers) - kv * shortest - state),
            input_bytes=short.input_bytes,
            kv_bytes=kv,
            state_bytes=state,
            compute_bytes=max(0, short.compute_bytes - compute * shortest),
            compute_bytes_per_token=compute,
            host_bytes=short.host_bytes,
            train_context_tokens=shape.train_context_tokens,
        )

    def context(self, asked: int | None) -> int:
        """The context to make room for."""
        wanted = SMALLEST_DEFAULT_CONTEXT if asked is None else asked
        return min(wanted, self.train_context_tokens) if self.train_context_tokens else wanted

    def need(self, context_tokens: int, parallel: int) -> Need:
        """The bytes for a context of that many tokens for each of `parallel` sequences."""
        padded = -(-context_tokens // CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS
        return Need(
            layer_bytes=self.layer_bytes + (self.kv_bytes * padded + self.state_bytes) * parallel,
            fixed_bytes=self.input_bytes + self.host_bytes,
            compute_bytes=self.compute_bytes + self.compute_bytes_per_token * padded,
        )
