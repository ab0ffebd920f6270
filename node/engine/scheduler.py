"""Decide which tokens the next `llama_decode` evaluates. Pure: slots' needs in, a plan out.

Prompts are read in the order of their arrival, so that the first one answers first instead of all of them late.
Running streams go on meanwhile: no stream waits for its next token longer than a reader hardly notices, if the
machine can do it at all; within that time a step takes as many prompt tokens as it can (see `Pace`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A gap of this length in a stream is felt as a hiccup, not as a stop. Shorter gaps make prompts slower: each step
# that streams share costs another pass over the weights.
STALL_TARGET_S = 0.4
# Fewer tokens than this don't amortise reading the weights once.
MIN_CHUNK_TOKENS = 64
# Reading two prompts at once is worth it as long as it takes no longer than this: on a GPU, where small batches leave
# it idle. Otherwise the first is answered sooner if it is read alone, and the second no later.
_WORTH_SHARING_S = 0.03
# A step may be this much longer where it reads a prompt to its end with it: a remainder would cost a step more.
_STRETCH = 1.25
_MIN_MEASURED_TOKENS = 32
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


@dataclass(frozen=True, slots=True)
class Turn:
    """How a step treats prompts.

    Attributes:
        chunk_tokens: prompt tokens in all while streams run.
        enough_tokens: with so many taken, no further prompt is begun: it would delay those before it.
        streams_wait: the running streams sit this step out.
    """

    chunk_tokens: int
    enough_tokens: int
    streams_wait: bool = False


def plan_step(needs: Sequence[Need], *, batch_tokens: int, turn: Turn) -> tuple[Share, ...]:
    """Share out one step of at most `batch_tokens` tokens.

    1. Every stream that runs gets one token, unless prompts go first this time.
    2. Prompts get the rest in arrival order. While any stream runs that is only `turn.chunk_tokens` in all, and
       after the first prompt only such as are read to their end: beginning another would make the first wait.
    3. No prompt is begun once `turn.enough_tokens` are taken.
    """
    streams = [n for n in needs if n.prompt_tokens == 0]
    prompts = sorted((n for n in needs if n.prompt_tokens > 0), key=lambda n: n.arrival)
    shares = [] if turn.streams_wait and prompts else [Share(n.slot, 1, prompt=False) for n in streams]
    room = batch_tokens - len(shares)
    if streams:
        room = min(room, turn.chunk_tokens)
    left = room
    for need in prompts:
        begins_only = bool(streams) and need is not prompts[0] and need.prompt_tokens > left
        if left <= 0 or begins_only or room - left >= turn.enough_tokens:
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
        elif prompt_tokens >= _MIN_MEASURED_TOKENS:
            # A shared step also paid for the streams' own pass.
            own_s = max(seconds - (self._stream_step_s if streams else 0.0), 0.2 * seconds)
            token_s = own_s / prompt_tokens
            known = self._token_s
            self._token_s = token_s if known is None else known + _SMOOTHING * (token_s - known)

    def turn(self, *, first_prompt_tokens: int, waited_s: float) -> Turn:
        """How the next step treats prompts.

        Args:
            first_prompt_tokens: left of the prompt that is read next.
            waited_s: since the running streams had their last token.
        """
        if not self._token_s:
            return Turn(2 * MIN_CHUNK_TOKENS, enough_tokens=MIN_CHUNK_TOKENS)
        enough = max(MIN_CHUNK_TOKENS, int(_WORTH_SHARING_S / self._token_s))
        left_s = STALL_TARGET_S - waited_s - self._stream_step_s
        # The streams can wait if the first prompt is read to its end and there is time for a step with them after it.
        spare_tokens = int(left_s / self._token_s) - MIN_CHUNK_TOKENS
        if first_prompt_tokens <= min(spare_tokens, self._batch_tokens):
            return Turn(spare_tokens, enough, streams_wait=True)
        chunk = max(MIN_CHUNK_TOKENS, int(left_s / self._token_s))
        if chunk < first_prompt_tokens <= _STRETCH * chunk:
            chunk = first_prompt_tokens
        return Turn(chunk, enough)

    def step_s(self, prompt_tokens: int) -> float:
        """Expected length of a step with this many prompt tokens; 0 where nothing is known yet."""
        return self._stream_step_s + prompt_tokens * (self._token_s or 0.0)
