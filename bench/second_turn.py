"""How much sooner the second turn of a long conversation begins to answer than the first did: the prefix cache."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.client import stream_chat, turn
from bench.report import Goal, Row
from bench.servers import Server
from bench.stats import median
from bench.vocabulary import Vocabulary

CONVERSATION_TOKENS = 2000
QUESTION_TOKENS = 16
ANSWER_TOKENS = 16
FIRST_SEED = 1_000_000  # apart from the seeds of other loads


@dataclass(slots=True)
class Samples:
    """Seconds to the first token of the first and of the second turn, one pair per conversation."""

    first_s: list[float] = field(default_factory=list)
    second_s: list[float] = field(default_factory=list)


async def measure(servers: list[Server], words: Vocabulary, repetitions: int) -> list[Samples]:
    """Hold conversations with each server by turns; none shares a beginning with another."""
    results = [Samples() for _ in servers]
    for server in servers:  # a model that is still loading would make the first turn slow, and the second look good
        await stream_chat(server.port, server.model, [turn("user", words.random_text(8, FIRST_SEED - 1))], 1)
    for repetition in range(repetitions):
        for server, samples in zip(servers, results, strict=True):
            await _converse(server, words, FIRST_SEED + 2 * repetition, samples)
    return results


async def _converse(server: Server, words: Vocabulary, seed: int, samples: Samples) -> None:
    messages = [turn("user", words.random_text(CONVERSATION_TOKENS, seed))]
    first = await stream_chat(server.port, server.model, messages, ANSWER_TOKENS)
    messages += [turn("assistant", first.text), turn("user", words.random_text(QUESTION_TOKENS, seed + 1))]
    second = await stream_chat(server.port, server.model, messages, ANSWER_TOKENS)
    samples.first_s.append(first.first_token_s)
    samples.second_s.append(second.first_token_s)


def summarise(model_name: str, ours: Samples, theirs: Samples) -> list[Row]:
    """The second turn's share of the first turn's time: of Ayni with its goal, and of the peer for comparison."""
    return [
        Row(
            benchmark="second-turn",
            model=model_name,
            measure=f"{CONVERSATION_TOKENS} tokens, first token of turn 1",
            unit="ms",
            ayni=median(ours.first_s) * 1000,
            peer=median(theirs.first_s) * 1000,
            peer_name="llama-server",
        ),
        Row(
            benchmark="second-turn",
            model=model_name,
            measure="turn 2's share of turn 1's time",
            unit="of turn 1",
            ayni=share(ours),
            peer=share(theirs),
            peer_name="llama-server",
            goal=Goal("value", "<=", 0.1),
        ),
    ]


def share(samples: Samples) -> float:
    """Median over conversations of second turn over first turn."""
    return median([second / first for first, second in zip(samples.first_s, samples.second_s, strict=True)])
