"""Who asks what and when: heavy-tailed conversations, as a list of turns that a simulated client works off."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from coordinator.cost import RouteRequest
from node.footprint import Footprint
from node.report import PrefixHash, WeightsDigest

GIB = 1 << 30
CONTEXT_TOKENS = 8192
LONGEST_CONVERSATION = 7000
PARALLEL = 4
# What the router thinks a prompt has in tokens differs from the truth by about this much.
ESTIMATE_SIGMA = 0.15


@dataclass(frozen=True, slots=True)
class Model:
    """A model to be served; `weight`: its share of the conversations."""

    digest: WeightsDigest
    footprint: Footprint
    weight: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: its whole prompt, the marks that earlier turns have set in it, the length of its answer."""

    prompt_tokens: int
    output_tokens: int
    marks: tuple[PrefixHash, ...]
    mark_tokens: tuple[int, ...]
    pause_s: float


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of one client with one model; the first comes `start_s` after the beginning."""

    number: int
    model: Model
    start_s: float
    entry: int
    estimate: float
    turns: tuple[Turn, ...]

    def request(self, turn: Turn) -> RouteRequest:
        """What the router is asked: true marks, estimated tokens."""
        return RouteRequest(
            self.model.digest,
            prompt_tokens=max(1, int(turn.prompt_tokens * self.estimate)),
            prefix_hashes=turn.marks,
            prefix_tokens=tuple(int(tokens * self.estimate) for tokens in turn.mark_tokens),
            context_tokens=CONTEXT_TOKENS,
            footprint=self.model.footprint,
            may_wait=True,
        )


def models() -> list[Model]:
    """Eight models from 1 to 20 GiB, asked for as 1/rank; the cache of a token is what such models take at f16."""
    sizes = ((4.7, 128), (2.0, 112), (0.9, 64), (8.9, 160), (4.7, 128), (2.0, 112), (20.0, 256), (8.9, 160))
    return [
        Model(
            WeightsDigest(f"sha256:{rank:064x}"),
            Footprint(
                file_bytes=int(size * GIB),
                layer_bytes=int(size * GIB * 0.95),
                input_bytes=int(size * GIB * 0.05),
                kv_bytes=kv_kib << 10,
                compute_bytes=300 << 20,
                train_context_tokens=32_768,
            ),
            1 / (rank + 1),
        )
        for rank, (size, kv_kib) in enumerate(sizes)
    ]


def conversations(
    served: Sequence[Model], *, per_s: float, seconds: float, entries: int, seed: int
) -> list[Conversation]:
    """Conversations that share prefixes: with their own earlier turns, and system prompts with others of their kind."""
    chance, at = random.Random(seed), 0.0
    found: list[Conversation] = []
    while (at := at + chance.expovariate(per_s)) < seconds:
        number = len(found)
        model = chance.choices(served, [model.weight for model in served])[0]
        kind = chance.randrange(6)
        system_tokens = (0, 300, 300, 900, 1500, 2500)[kind]
        marks = [_mark(model.digest, "system", kind)] if system_tokens else []
        counts = [system_tokens] if system_tokens else []
        turns: list[Turn] = []
        tokens = system_tokens
        # Pareto: most conversations are short, a few go on for long.
        for index in range(min(40, int(2 * chance.paretovariate(1.1)))):
            asked = int(_lognormal(chance, 350 if index == 0 else 70, 1.1, 2500))
            answered = int(_lognormal(chance, 150, 0.8, 1200))
            if tokens + asked + answered > LONGEST_CONVERSATION:
                break
            pause_s = _lognormal(chance, 12, 0.9, 120)
            turns.append(Turn(tokens + asked, answered, tuple(marks), tuple(counts), pause_s))
            tokens += asked + answered
            marks.append(_mark(model.digest, number, index))
            counts.append(tokens)
        if turns:
            estimate = math.exp(chance.gauss(0, ESTIMATE_SIGMA))
            found.append(Conversation(number, model, at, chance.randrange(entries), estimate, tuple(turns)))
    return found


def separated(shared: Sequence[Conversation], seed: int) -> list[Conversation]:
    """The same requests at about the same times, each a conversation of its own that shares nothing."""
    chance = random.Random(seed)
    found: list[Conversation] = []
    for conversation in shared:
        at = conversation.start_s
        for turn in conversation.turns:
            alone = replace(turn, marks=(), mark_tokens=())
            found.append(replace(conversation, number=len(found), start_s=at, turns=(alone,)))
            at += turn.pause_s + chance.uniform(2, 8)
    return found


def _mark(*parts: object) -> PrefixHash:
    return PrefixHash(int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little"))


def _lognormal(chance: random.Random, median: float, sigma: float, most: float) -> float:
    return min(most, max(1.0, median * math.exp(chance.gauss(0, sigma))))
