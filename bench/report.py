"""Results as values, and how they are shown: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil

from bench.stats import median


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached: a bound on Ayni's value, on its ratio to the peer's, or on the difference of both."""

    of: Literal["value", "ratio", "difference"]
    relation: Literal["<=", ">="]
    bound: float


@dataclass(frozen=True, slots=True)
class Row:
    """One measured quantity: medians of Ayni and of the peer, in `unit`; `peer` None: there is none.

    `spread`: half the range of Ayni's single repetitions relative to their median. `paired`: the median of the ratios
    of single turns, where each of ours was measured beside one of the peer's: what slows the machine down for a while
    slows both, and so leaves it alone.
    """

    benchmark: str
    model: str
    measure: str
    unit: str
    ayni: float
    peer: float | None = None
    peer_name: str = ""
    goal: Goal | None = None
    spread: float = 0.0
    paired: float | None = None

    @property
    def ratio(self) -> float | None:
        """Ayni's value over the peer's: turn by turn where that was measured, else of the medians."""
        if self.paired is not None:
            return self.paired
        return self.ayni / self.peer if self.peer else None

    @property
    def figure(self) -> float | None:
        """What the goal bounds."""
        match self.goal:
            case Goal(of="value"):
                return self.ayni
            case Goal(of="difference") if self.peer is not None:
                return self.ayni - self.peer
            case _:
                return self.ratio

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None or self.figure is None:
            return None
        return self.figure <= self.goal.bound if self.goal.relation == "<=" else self.figure >= self.goal.bound


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of turns, each of ours measured beside the peer's of the same place."""
    return median([mine / other for mine, other in zip(ours, theirs, strict=True)])


def spread(samples: Sequence[float], middle: float) -> float:
    """Half the range of the samples, relative to their middle."""
    return (max(samples) - min(samples)) / 2 / middle if middle else 0.0


HEADINGS = ("model", "measure", "Ayni", "peer", "ratio", "goal", "")


def table(rows: Sequence[Row]) -> str:
    """Render the results as a Markdown table, which also reads well on a terminal."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    verdict = {True: "met", False: "missed", None: ""}[row.met]
    return (
        row.model,
        row.measure,
        f"{_number(row.ayni)} {row.unit}" + (f" ±{row.spread:.0%}" if row.spread else ""),
        f"{_number(row.peer)} {row.unit} ({row.peer_name})" if row.peer is not None else "",
        f"{row.ratio:.3f}" if row.ratio is not None else "",
        _goal_text(row),
        verdict,
    )


def _goal_text(row: Row) -> str:
    match row.goal:
        case None:
            return ""
        case Goal("difference", relation, bound):
            return f"{relation} {bound:+g} {row.unit}"
        case Goal("value", relation, bound):
            return f"{relation} {bound:g} {row.unit}"
        case Goal(_, relation, bound):
            return f"ratio {relation} {bound:g}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What the numbers were measured on; `load` is the number of runnable processes before the run."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "llama_cpp_python": version("llama-cpp-python"),
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def to_json(rows: Sequence[Row], about: dict[str, Any], samples: dict[str, Any]) -> str:
    """The whole run: the machine, the rows with their verdicts, and every single measurement."""
    rendered = [asdict(row) | {"ratio": row.ratio, "figure": row.figure, "met": row.met} for row in rows]
    return json.dumps({"machine": about, "rows": rendered, "samples": samples}, indent=1)
