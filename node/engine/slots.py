"""The engine's sequences: what each one's memory holds, what it still has to evaluate, and for whom."""

from __future__ import annotations

from dataclasses import dataclass, field

from node.engine.generation import Generation
from node.engine.prefix import MIN_COPY_TOKENS, Held, common_prefix
from node.engine.scheduler import Need


@dataclass(slots=True)
class Slot:
    """One sequence of the KV cache.

    Attributes:
        tokens: evaluated, in memory, from position 0.
        exact: how many of them a fresh evaluation would reproduce; after a context shift only the kept ones,
            since the others were computed in sight of what is gone.
        pending: to be evaluated next; the rest of a prompt, or a stream's last token.
        prefilling: no token of this generation has been sampled yet.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    exact: int = 0
    pending: list[int] = field(default_factory=list)
    prefilling: bool = False
    generation: Generation | None = None
    arrival: int = 0
    last_used: int = 0

    @property
    def busy(self) -> bool:
        """Whether a job holds this slot."""
        return self.generation is not None

    @property
    def streaming(self) -> bool:
        """Whether its job has begun to answer."""
        return self.generation is not None and not self.prefilling

    @property
    def reusable(self) -> list[int]:
        """The tokens another prompt may go on from."""
        return self.tokens if self.exact >= len(self.tokens) else self.tokens[: self.exact]

    def held(self) -> Held:
        """The slot as placement sees it."""
        return Held(self.index, self.reusable, self.busy, self.last_used)

    def keep(self, count: int) -> None:
        """Memory was cut down to the first `count` tokens."""
        del self.tokens[count:]
        self.exact = min(self.exact, count)

    def evaluated(self, count: int) -> None:
        """The first `count` pending tokens are in memory now."""
        if self.exact == len(self.tokens):
            self.exact += count
        self.tokens += self.pending[:count]
        del self.pending[:count]

    def release(self, tick: int) -> None:
        """The job is over; its memory stays for others to go on from."""
        self.generation = None
        self.pending = []
        self.prefilling = False
        self.last_used = tick


def ready_prompts(slots: list[Slot]) -> list[Slot]:
    """The prompts to be read now, in order of arrival.

    A prompt waits while an earlier one, not yet read to its end, begins like it: its memory can be copied then.
    """
    prompts = sorted((s for s in slots if s.prefilling), key=lambda s: s.arrival)
    return [
        slot
        for at, slot in enumerate(prompts)
        if not any(_will_be_worth_copying(slot, earlier) for earlier in prompts[:at])
    ]


def needs(slots: list[Slot]) -> list[Need]:
    """What busy slots want evaluated in the next step."""
    streams = [Need(s.index, s.arrival, 0) for s in slots if s.streaming]
    return streams + [Need(s.index, s.arrival, len(s.pending)) for s in ready_prompts(slots)]


def best_source(slot: Slot, slots: list[Slot]) -> tuple[Slot, int] | None:
    """The slot from which `slot` should copy before it reads its prompt on, and how many tokens that gives it."""
    target = slot.tokens + slot.pending
    best: tuple[Slot, int] | None = None
    for other in slots:
        if other is slot:
            continue
        shared = min(common_prefix(other.reusable, target), len(target) - 1)
        if shared - len(slot.tokens) >= MIN_COPY_TOKENS and (best is None or shared > best[1]):
            best = (other, shared)
    return best


def _will_be_worth_copying(slot: Slot, earlier: Slot) -> bool:
    mine = slot.tokens + slot.pending
    shared = min(common_prefix(mine, earlier.tokens + earlier.pending), len(mine) - 1)
    return shared - len(slot.tokens) >= MIN_COPY_TOKENS and shared > len(earlier.tokens)
