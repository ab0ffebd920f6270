"""`scripts/bench [engine|http|second-turn|idle ...] [--quick] [--json FILE]`: run benchmarks, print one table."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench import engine, http_load, idle, second_turn
from bench.client import BadAnswer
from bench.engine import RunnerFailed
from bench.models import FIFTEEN_MILLION, HALF_BILLION, SHAPES, Shape, write_model
from bench.peers import PeerError, Peers, ensure_peers
from bench.report import Row, machine, table, to_json
from bench.servers import ServerFailed, Slots, ayni_server, llama_server
from scripts.bootstrap import BootstrapError, say

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "bench" / ".cache"
LOCK = ROOT / "scripts" / "requirements-engine.txt"
CONTEXT_TOKENS = 4096
LEVELS = (1, 4, 8)


@dataclass(slots=True)
class Run:
    """What all benchmarks of one invocation share."""

    peers: Peers
    shapes: tuple[Shape, ...]
    quick: bool
    threads: int
    rows: list[Row] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, rows: list[Row], **samples: Any) -> None:
        """Keep a benchmark's results and show them."""
        self.rows += rows
        self.samples[name] = samples
        say(table(rows) + "\n")


def _engine(run: Run) -> None:
    for shape in run.shapes:
        plan = engine.Plan(
            levels=LEVELS,
            output_tokens={HALF_BILLION: 64, FIFTEEN_MILLION: 384}[shape],
            repetitions=2 if run.quick else 7,
            threads=run.threads,
        )
        say(f"engine: {shape.name} beside llama-batched-bench ...")
        model = write_model(shape, CACHE)
        ours, theirs = engine.measure(model, shape.vocabulary_size, run.peers.batched_bench, plan)
        run.add(f"engine {shape.name}", engine.summarise(shape.name, ours, theirs), ayni=ours, peer=theirs)


async def _served(run: Run, *, http: bool, turns: bool) -> None:
    """Both benchmarks that need servers, on one pair of them per model."""
    for shape in run.shapes:
        model = write_model(shape, CACHE)
        slots = Slots(parallel=8, context_tokens=CONTEXT_TOKENS, threads=run.threads)
        async with AsyncExitStack() as stack:
            say(f"starting servers with {shape.name} ...")
            theirs = await stack.enter_async_context(llama_server(run.peers.server, model, slots))
            ours = await stack.enter_async_context(ayni_server(model, slots))
            if http:
                say(f"http: {shape.name} beside llama-server ...")
                plan = http_load.Plan(repetitions=1 if run.quick else 5)
                mine, other = await http_load.measure(ours, theirs, plan, shape.words)
                rows = http_load.summarise(shape.name, plan, mine, other)
                run.add(f"http {shape.name}", rows, ayni=asdict(mine), peer=asdict(other))
            if turns:
                say(f"second-turn: {shape.name} ...")
                repetitions = 1 if run.quick else 3
                first, second = await second_turn.measure([ours, theirs], shape.words, repetitions)
                rows = second_turn.summarise(shape.name, first, second)
                run.add(f"second-turn {shape.name}", rows, ayni=asdict(first), peer=asdict(second))


async def _idle(run: Run) -> None:
    say("idle: start, memory, list ...")
    samples = await idle.measure(2 if run.quick else 5)
    run.add("idle", idle.summarise(samples), ayni=asdict(samples))


NAMES = ("engine", "http", "second-turn", "idle")


def _measure(run: Run, names: list[str]) -> None:
    """The engine's benchmark blocks, so it stays outside any event loop: Ctrl-C then stops it at once."""
    if "engine" in names:
        _engine(run)
    if "http" in names or "second-turn" in names:
        asyncio.run(_served(run, http="http" in names, turns="second-turn" in names))
    if "idle" in names:
        asyncio.run(_idle(run))


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure Ayni beside llama.cpp's programs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; all by default")
    parser.add_argument("--model", choices=[shape.name for shape in SHAPES], help="only with this model")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it run, not how fast")
    parser.add_argument("--json", type=Path, help="where to write all measurements")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    return arguments


def main(argv: list[str]) -> int:
    """Entry point; returns the exit status."""
    arguments = _arguments(argv)
    names = arguments.names or list(NAMES)
    about = machine()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops our servers, as Ctrl-C does
    try:
        peers = ensure_peers(LOCK, CACHE)
        shapes = tuple(shape for shape in SHAPES if arguments.model in (None, shape.name))
        run = Run(peers, shapes, arguments.quick, arguments.threads)
        _measure(run, names)
    except (PeerError, BootstrapError, ServerFailed, RunnerFailed, BadAnswer) as error:
        say(f"Error: {error}")
        return 1
    except KeyboardInterrupt:
        say("Stopped.")
        return 130
    print(table(run.rows))
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path: Path = arguments.json or CACHE / "results" / f"{stamp}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(run.rows, about, run.samples))
    say(f"\nWritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
