"""Decode throughput of a runner process beside llama-batched-bench: no HTTP, only the engine and its frames.

The benchmark decodes fixed random tokens and never looks at a logit; the runner samples, detokenises and reports
each token to another process. Both hold their prompts before the clock counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report import Goal, Row, paired_ratio, spread
from bench.stats import median
from node.jobs import Delta, Done, Failed, Job, Raw, Sampling
from node.runner.protocol import (
    FRAME_HEADER_BYTES,
    Events,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    LoadSpec,
    Reply,
    Standing,
    Submit,
    decode_reply,
    frame,
)

ROOT = Path(__file__).resolve().parent.parent
PROMPT_TOKENS = 16
CONTEXT_TOKENS = 1024
BATCH_TOKENS = 512
ALL_LAYERS = 99  # more than any of our models has; without a GPU it means nothing to either side
REPLY_LIMIT_S = 120.0
RUN_LIMIT_S = 300.0


class RunnerFailed(Exception):
    """The runner did not do what it was asked; the message is its own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how often."""

    levels: tuple[int, ...]
    output_tokens: int
    repetitions: int
    threads: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one frame of events brought: when, and how many tokens of which job."""

    at_s: float
    tokens: dict[str, int]
    finished: bool = False


Rates = dict[int, list[float]]


def decode_rate(steps: Sequence[Step], jobs: int) -> float:
    """Tokens a second while all `jobs` ran: from the step where the last began until one had finished.

    Raises: ValueError: there was no such time.
    """
    begun: set[str] = set()
    started: float | None = None
    counted = 0
    ended = 0.0
    for step in steps:
        if started is not None:
            counted += sum(step.tokens.values())
            ended = step.at_s
        begun.update(job for job, tokens in step.tokens.items() if tokens)
        if started is None and len(begun) == jobs:
            started = step.at_s
        if step.finished:
            break
    if started is None or ended <= started:
        raise ValueError("the jobs never ran together")
    return counted / (ended - started)


def parse_batched_bench(output: str) -> float:
    """Decode tokens a second of the one run reported as JSON lines. Raises ValueError."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"n_kv_max"')]
    if len(lines) != 1:
        raise ValueError(f"expected one result of llama-batched-bench, got {len(lines)}")
    return float(lines[0]["speed_tg"])


class Runner:
    """A runner process at the other end of a socket, used without a daemon."""

    def __init__(self, spec: LoadSpec) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "node.runner", "--fd", str(theirs.fileno())]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        with theirs:
            self._process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=[theirs.fileno()],
                stderr=self._log,
                start_new_session=True,
            )
        ours.settimeout(REPLY_LIMIT_S)
        self._socket = ours
        self._file = ours.makefile("rb")
        ours.sendall(frame(Load(spec)))

    def wait_loaded(self) -> Loaded:
        """Return once the model is in memory. Raises RunnerFailed."""
        while True:
            match self._receive():
                case Loaded() as loaded:
                    return loaded
                case LoadFailed(message):
                    raise RunnerFailed(message)
                case LoadProgress() | Events() | Standing():
                    continue

    def run(self, jobs: Sequence[Job]) -> list[Step]:
        """Run jobs at once until all are done. Raises RunnerFailed."""
        self._socket.sendall(b"".join(frame(Submit(job)) for job in jobs))
        steps: list[Step] = []
        remaining = len(jobs)
        while remaining:
            reply = self._receive()
            at_s = time.perf_counter()
            if not isinstance(reply, Events):
                continue
            tokens: dict[str, int] = {}
            finished = 0
            for event in reply.events:
                match event:
                    case Delta():
                        tokens[event.job] = tokens.get(event.job, 0) + len(event.tokens)
                    case Done():
                        finished += 1
                    case Failed():
                        raise RunnerFailed(event.message)
            remaining -= finished
            steps.append(Step(at_s, tokens, finished > 0))
        return steps

    def close(self) -> None:
        """End the process: it exits when its socket closes."""
        self._file.close()
        self._socket.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _receive(self) -> Reply:
        try:
            header = self._file.read(FRAME_HEADER_BYTES)
            body = self._file.read(int.from_bytes(header, "little"))
        except OSError as error:
            raise RunnerFailed(f"{error!r}: {self._last_words()}") from error
        if not body:
            raise RunnerFailed(f"the runner closed its socket: {self._last_words()}")
        reply: Reply = decode_reply(body)
        return reply

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-3000:]


@contextlib.contextmanager
def loaded_runner(model: Path, plan: Plan) -> Iterator[Runner]:
    """A runner with the model in memory."""
    spec = LoadSpec(
        model_path=str(model),
        context_tokens=CONTEXT_TOKENS,
        parallel=max(plan.levels),
        batch_tokens=BATCH_TOKENS,
        gpu_layers=ALL_LAYERS,
        threads=plan.threads,
    )
    runner = Runner(spec)
    try:
        runner.wait_loaded()
        yield runner
    finally:
        runner.close()


def measure(model: Path, vocabulary_size: int, batched_bench: Path, plan: Plan) -> tuple[Rates, Rates]:
    """Run runner and peer alternately; tokens a second per level, one number per repetition."""
    ours: Rates = {level: [] for level in plan.levels}
    theirs: Rates = {level: [] for level in plan.levels}
    dice = random.Random(0)
    with loaded_runner(model, plan) as runner:
        runner.run(_jobs(dice, vocabulary_size, 1, 8))  # the first run touches every page of the weights
        for _ in range(plan.repetitions):
            for level in plan.levels:
                theirs[level].append(_run_peer(batched_bench, model, level, plan))
                jobs = _jobs(dice, vocabulary_size, level, plan.output_tokens)
                ours[level].append(decode_rate(runner.run(jobs), level))
    return ours, theirs


def _jobs(dice: random.Random, vocabulary_size: int, count: int, output_tokens: int) -> list[Job]:
    """Jobs with random prompts of their own; ids below a thousand may be special, so they are not used."""
    return [
        Job(
            id=f"{index}",
            prompt=Raw(prompt=tuple(dice.randrange(1000, vocabulary_size) for _ in range(PROMPT_TOKENS))),
            sampling=Sampling(temperature=0),
            max_tokens=output_tokens,
        )
        for index in range(count)
    ]


def _run_peer(program: Path, model: Path, level: int, plan: Plan) -> float:
    command: list[str | Path] = [program, "-m", model, "-c", str(level * CONTEXT_TOKENS), "-b", str(BATCH_TOKENS)]
    command += ["-npp", str(PROMPT_TOKENS), "-ntg", str(plan.output_tokens), "-npl", str(level)]
    command += ["-t", str(plan.threads), "-ngl", str(ALL_LAYERS), "--output-format", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=True)
    return parse_batched_bench(done.stdout)


def summarise(model_name: str, ours: Rates, theirs: Rates) -> list[Row]:
    """One row per number of parallel sequences."""
    return [
        Row(
            benchmark="engine",
            model=model_name,
            measure=f"decode, {level} at once",
            unit="tok/s",
            ayni=median(ours[level]),
            peer=median(theirs[level]),
            peer_name="llama-batched-bench",
            goal=Goal("ratio", ">=", 0.97),
            spread=spread(ours[level], median(ours[level])),
            paired=paired_ratio(ours[level], theirs[level]),
        )
        for level in ours
    ]
