"""What Ayni costs when it does nothing: time to start, memory of the idle daemon, time of a simple command."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.report import Goal, Row, spread
from bench.servers import AYNI, ayni_environment, free_port, run_ayni, running
from bench.stats import median

SETTLE_S = 3.0


@dataclass(slots=True)
class Samples:
    """One number per start, per start, and per `ayni list`."""

    start_s: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    list_s: list[float] = field(default_factory=list)


async def measure(repetitions: int) -> Samples:
    """Start a daemon with no models `repetitions` times. The first start, which may compile bytecode, is dropped."""
    samples = Samples()
    for repetition in range(repetitions + 1):
        with tempfile.TemporaryDirectory(prefix="ayni-bench-") as scratch:
            await _start_once(Path(scratch), samples if repetition else Samples())
    return samples


async def _start_once(home: Path, samples: Samples) -> None:
    port = free_port()
    environment = ayni_environment(home, port)
    started = time.perf_counter()
    async with running(
        [AYNI, "serve"],
        name="ayni",
        port=port,
        ready_path="/api/version",
        log=home / "log",
        environment=environment,
    ) as server:
        samples.start_s.append(time.perf_counter() - started)
        await asyncio.sleep(SETTLE_S)
        samples.resident_mb.append(resident_bytes(server.pid) / 1e6)
        for _ in range(5):
            begun = time.perf_counter()
            await run_ayni(["list"], environment)
            samples.list_s.append(time.perf_counter() - begun)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all its children."""
    root = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))


def summarise(samples: Samples) -> list[Row]:
    """Three absolute values with absolute goals."""
    figures = (
        ("`ayni serve` answers /api/version", "s", samples.start_s, 1.0),
        ("idle daemon, resident", "MB", samples.resident_mb, 120.0),
        ("`ayni list`", "s", samples.list_s, 0.4),
    )
    return [
        Row(
            benchmark="idle",
            model="",
            measure=measure_name,
            unit=unit,
            ayni=median(values),
            goal=Goal("value", "<=", bound),
            spread=spread(values, median(values)),
        )
        for measure_name, unit, values, bound in figures
    ]
