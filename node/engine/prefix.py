"""Choose the sequence for a prompt so that as little as possible is evaluated again. Pure.

A sequence's memory stays when its job ends. A new prompt may go on in an idle sequence that begins with the same
tokens, or take a copy of what any sequence, busy or idle, has of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A copy moves a whole sequence's cache (tens of megabytes); below this, evaluating again is as quick.
MIN_COPY_TOKENS = 64
# llama.cpp evaluates neighbouring sequences in one pass over the weights and each further run of neighbours in
# another, which slows every step of all of them: over a usual reply by about as much as reading so many tokens.
GAP_COST_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Held:
    """What a sequence's memory holds: `tokens` from position 0 (as far as they are exact) and when it was used."""

    slot: int
    tokens: Sequence[int]
    busy: bool
    last_used: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Use `slot`, whose first `keep` tokens are then right; copied from `source` first, where that is not None."""

    slot: int
    keep: int
    source: int | None = None


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    # Bisect on slices: comparing them runs in C, and conversations are thousands of tokens long.
    low, high = 0, length
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def place(prompt: Sequence[int], held: Sequence[Held], *, can_rewind: bool) -> Placement | None:
    """Choose a sequence for `prompt`; None while all are busy.

    At least the prompt's last token is always evaluated again, for its logits. `can_rewind` False (recurrent
    memory): a sequence is only reused whole and in place.
    1. Continue in the idle sequence that shares most, if little of its own is lost or it would be given up anyway.
    2. Otherwise give up the idle sequence whose loss costs least (few tokens, long unused, beside the busy ones),
       after copying the longest beginning to it, if that is worth a copy.
    """
    idle = [h for h in held if not h.busy]
    if not idle:
        return None
    limit = len(prompt) - 1
    shared = {h.slot: min(common_prefix(h.tokens, prompt), limit) for h in held}
    if not can_rewind:
        whole = [h for h in idle if h.tokens and shared[h.slot] == len(h.tokens)]
        if whole:
            best = max(whole, key=lambda h: len(h.tokens))
            return Placement(best.slot, len(best.tokens))
        return Placement(_cheapest(held).slot, 0)
    here = max(idle, key=lambda h: (shared[h.slot], -len(h.tokens)))
    anywhere = max(held, key=lambda h: (shared[h.slot], h.slot == here.slot))
    spare = _cheapest(held)
    worth_a_copy = shared[anywhere.slot] - shared[here.slot] >= MIN_COPY_TOKENS
    keeps_most = 2 * shared[here.slot] >= len(here.tokens)
    if shared[here.slot] > 0 and not worth_a_copy and (keeps_most or here.slot == spare.slot):
        return Placement(here.slot, shared[here.slot])
    if shared[anywhere.slot] - shared[spare.slot] >= MIN_COPY_TOKENS:
        return Placement(spare.slot, shared[anywhere.slot], source=anywhere.slot)
    return Placement(spare.slot, shared[spare.slot])


def _cheapest(held: Sequence[Held]) -> Held:
    """The idle sequence to give up: see GAP_COST_TOKENS; what was used last is the likeliest to be wanted again."""
    busy = {h.slot for h in held if h.busy}
    idle = sorted((h for h in held if not h.busy), key=lambda h: h.last_used)

    def cost(rank: int) -> float:
        candidate = idle[rank]
        return len(candidate.tokens) * (rank + 1) / len(idle) + GAP_COST_TOKENS * _runs(busy | {candidate.slot})

    return idle[min(range(len(idle)), key=cost)]


def _runs(slots: set[int]) -> int:
    """How many runs of neighbours the slots form."""
    return sum(slot - 1 not in slots for slot in slots)
