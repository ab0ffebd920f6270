"""Decide which tokens the next `llama_decode` evaluates. Pure: slots' needs in, a plan out.

Running streams come first: each gets its one token in every step. What is left of the step goes to prompts in
the order of their arrival, so that the first one answers first instead of all of them late. While streams run,
a step takes no more prompt tokens than fit the time that a reader does not notice (see `Pace`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A gap of this length in a stream is felt as a hiccup, not as a stop; shorter steps waste the decode pass that
# each of them repeats for the running streams.
STALL_TARGET_S = 0.25
# Fewer tokens than this don't amortise reading the weights once.
MIN_CHUNK_TOKENS = 64
_CHUNK_STEP = 32
# Weight of the newest measurement; a machine that becomes busy is noticed within a few steps.
_SMOOTHING = 0.3


@dataclass(frozen=True, slots=True)
class Need:
    """What one slot wants evaluated: `prompt_tokens` left to prefill, or (0) the token it sampled last."""

    slot: int
    arrival: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Share:
    """Tokens of one slot in the step; `prompt` tells prefill from the next token of a stream."""

    slot: int
    tokens: int
    prompt: bool


def plan_step(needs: Sequence[Need], *, batch_tokens: int, chunk_tokens: int) -> tuple[Share, ...]:
    """Share out one step of at most `batch_tokens` tokens.

    1. Every stream that runs gets one token.
    2. Prompts get the rest in arrival order; only `chunk_tokens` of it in all while any stream runs.
    """
    streams = [n for n in needs if n.prompt_tokens == 0]
    prompts = sorted((n for n in needs if n.prompt_tokens > 0), key=lambda n: n.arrival)
    shares = [Share(n.slot, 1, prompt=False) for n in streams]
    left = batch_tokens - len(shares)
    if streams:
        left = min(left, chunk_tokens)
    for need in prompts:
        if left <= 0:
            break
        tokens = min(need.prompt_tokens, left)
        shares.append(Share(need.slot, tokens, prompt=True))
        left -= tokens
    return tuple(shares)


class Pace:
    """Measures how fast this machine reads prompts and says how many prompt tokens a shared step may take."""

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._token_s: float | None = None
        self._stream_step_s = 0.0

    def observe(self, *, streams: int, prompt_tokens: int, seconds: float) -> None:
        """Take a step's measurement."""
        if prompt_tokens == 0:
            self._stream_step_s += _SMOOTHING * (seconds - self._stream_step_s)
        elif prompt_tokens >= _CHUNK_STEP:
            # A shared step also paid for the streams' own pass.
            own_s = max(seconds - (self._stream_step_s if streams else 0.0), 0.2 * seconds)
            token_s = own_s / prompt_tokens
            known = self._token_s
            self._token_s = token_s if known is None else known + _SMOOTHING * (token_s - known)

    @property
    def chunk_tokens(self) -> int:
        """Prompt tokens for a step that streams share: what `STALL_TARGET_S` allows, in whole steps of 32."""
        if not self._token_s:
            return min(self._batch_tokens, 2 * MIN_CHUNK_TOKENS)
        tokens = int(STALL_TARGET_S / self._token_s) // _CHUNK_STEP * _CHUNK_STEP
        return min(self._batch_tokens, max(MIN_CHUNK_TOKENS, tokens))

    def step_s(self, prompt_tokens: int) -> float:
        """Expected length of a step with this many prompt tokens; 0 where nothing is known yet."""
        return self._stream_step_s + prompt_tokens * (self._token_s or 0.0)
