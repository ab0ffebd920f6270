"""The same load on `ayni serve` and on llama-server, by turns: throughput, time to first token, gaps between tokens.

Every prompt is new to both servers, so no cached prefix helps; see `bench.second_turn` for those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count

from bench.client import Trace, stream_chat, turn
from bench.report import Goal, Row, paired_ratio, spread
from bench.servers import Server
from bench.stats import median, percentile
from bench.vocabulary import Vocabulary

MAX_ARRIVALS = 50  # of new prompts while streams run; a server that never ends its streams is cut off here


@dataclass(frozen=True, slots=True)
class Plan:
    """How much load; tokens count words of the prompt, to which the template adds a few."""

    streams: int = 8
    prompt_tokens: int = 64
    output_tokens: int = 96
    lone_requests: int = 10
    running_streams: int = 4
    running_tokens: int = 96
    arriving_tokens: int = 256
    repetitions: int = 3


@dataclass(slots=True)
class Samples:
    """What one server did: per repetition, or per request where the name is in the plural of requests."""

    throughputs: list[float] = field(default_factory=list)
    lone_first_tokens_s: list[float] = field(default_factory=list)
    burst_first_tokens_s: list[list[float]] = field(default_factory=list)
    gaps_s: list[list[float]] = field(default_factory=list)


class Load:
    """Sends the requests; each of its prompts is used once per server."""

    def __init__(self, plan: Plan, words: Vocabulary) -> None:
        self._plan = plan
        self._words = words
        self._seeds = count(1)

    async def warm_up(self, server: Server) -> None:
        """Load the model and touch its memory."""
        await self._ask(server, 8, 4)

    async def lone(self, server: Server, samples: Samples) -> None:
        """One request, nothing else running."""
        trace = await self._ask(server, self._plan.prompt_tokens, 2)
        samples.lone_first_tokens_s.append(trace.first_token_s)

    async def burst(self, server: Server, samples: Samples) -> None:
        """All streams at once."""
        plan = self._plan
        requests = [self._ask(server, plan.prompt_tokens, plan.output_tokens) for _ in range(plan.streams)]
        traces = await asyncio.gather(*requests)
        samples.throughputs.append(throughput(traces))
        samples.burst_first_tokens_s.append([trace.first_token_s for trace in traces])

    async def arrivals(self, server: Server, samples: Samples) -> None:
        """Streams that run while one new prompt after the other arrives."""
        plan = self._plan
        watched = [Trace(0.0) for _ in range(plan.running_streams)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(server, 8, plan.running_tokens, trace)) for trace in watched]
                for trace in watched:
                    await trace.begun.wait()
                for _ in range(MAX_ARRIVALS):
                    if any(task.done() for task in tasks):
                        break
                    await self._ask(server, plan.arriving_tokens, 2)
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error
        samples.gaps_s.append(list(common_gaps(watched)))

    async def _ask(self, server: Server, words: int, output: int, trace: Trace | None = None) -> Trace:
        prompt = self._words.random_text(words, next(self._seeds))
        return await stream_chat(server.port, server.model, [turn("user", prompt)], output, trace)


def throughput(traces: Sequence[Trace]) -> float:
    """Output tokens a second, from the first request sent to the last token received."""
    seconds = max(trace.finished_s for trace in traces) - min(trace.sent_s for trace in traces)
    return sum(trace.output_tokens for trace in traces) / seconds


def common_gaps(traces: Sequence[Trace]) -> Iterator[float]:
    """Gaps between the tokens of each stream, within the time when all of them ran."""
    begin = max(trace.arrivals_s[0] for trace in traces)
    end = min(trace.finished_s for trace in traces)
    for trace in traces:
        for gap, arrival in zip(trace.gaps_s, trace.arrivals_s[1:], strict=True):
            if begin <= arrival - gap and arrival <= end:
                yield gap


async def measure(ours: Server, theirs: Server, plan: Plan, words: Vocabulary) -> tuple[Samples, Samples]:
    """Put every kind of load on both servers, taking turns, and who goes first takes turns too."""
    load = Load(plan, words)
    pairs = [(ours, Samples()), (theirs, Samples())]
    for server, _ in pairs:
        await load.warm_up(server)
    for repetition in range(plan.repetitions):
        order = pairs if repetition % 2 == 0 else pairs[::-1]
        for _ in range(plan.lone_requests):
            for server, samples in order:
                await load.lone(server, samples)
        for server, samples in order:
            await load.burst(server, samples)
        for server, samples in order:
            await load.arrivals(server, samples)
    return pairs[0][1], pairs[1][1]


def summarise(model_name: str, plan: Plan, ours: Samples, theirs: Samples) -> list[Row]:
    """Throughput, time to first token alone and in a crowd, and the longest gaps."""
    at_once = f"{plan.streams} at once"

    def row(measure: str, unit: str, goal: Goal, mine: list[float], other: list[float], scale: float = 1) -> Row:
        middle = median(mine)
        by_turns = len(mine) == len(other) <= plan.repetitions
        return Row(
            benchmark="http",
            model=model_name,
            measure=measure,
            unit=unit,
            ayni=middle * scale,
            peer=median(other) * scale,
            peer_name="llama-server",
            goal=goal,
            spread=spread(mine, middle) if by_turns else 0.0,
            paired=paired_ratio(mine, other) if by_turns else None,
        )

    return [
        row(f"{at_once}, throughput", "tok/s", Goal("ratio", ">=", 1.0), ours.throughputs, theirs.throughputs),
        row(
            "alone, first token",
            "ms",
            Goal("difference", "<=", 5.0),
            ours.lone_first_tokens_s,
            theirs.lone_first_tokens_s,
            1000,
        ),
        row(
            f"{at_once}, first token",
            "ms",
            Goal("ratio", "<=", 0.7),
            list(chain(*ours.burst_first_tokens_s)),
            list(chain(*theirs.burst_first_tokens_s)),
            1000,
        ),
        row(
            "prompts arriving, p99 gap",
            "ms",
            Goal("ratio", "<=", 1.0),
            [percentile(gaps, 0.99) for gaps in ours.gaps_s],
            [percentile(gaps, 0.99) for gaps in theirs.gaps_s],
            1000,
        ),
    ]
