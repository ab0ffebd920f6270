"""`python -m bench.routing`: how long a routing decision takes, on synthetic clusters of two sizes.

Every model is asked for in turn: loaded on many nodes, on one, on none. Reported are the mean, the 99th percentile
and the worst of single decisions; the goals bind the mean over each kind of request, hardest kind included.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from bench.cluster_views import synthetic_request, synthetic_view
from bench.report import Goal, Row, table
from bench.stats import median, percentile
from coordinator.cost import RouteRequest
from coordinator.route import choose_route
from coordinator.view import View

SIZES = ((32, 200, 100.0), (1000, 2000, 1000.0))
REPETITIONS = 7


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of single decisions."""

    samples_us: list[float]

    @property
    def mean_us(self) -> float:
        return sum(self.samples_us) / len(self.samples_us)


def measure(view: View, requests: list[RouteRequest], repetitions: int) -> Timing:
    """Best of `repetitions` for each request, so that another process's turn on the core does not count."""
    for request in requests[:50]:
        choose_route(view, request)
    samples = []
    gc.disable()
    try:
        for request in requests:
            best = min(_time(lambda asked=request: choose_route(view, asked)) for _ in range(repetitions))  # type: ignore[misc]
            samples.append(best * 1e6)
    finally:
        gc.enable()
    return Timing(samples)


def measure_update(view: View, repetitions: int) -> float:
    """Microseconds for taking one node's new report into the view, the counts of one model changed."""
    report = next(iter(view.nodes.values()))
    samples = []
    for number in range(repetitions * 20):
        busy = replace(report.resident[0], active=number % 2)
        fresh = replace(report, sequence=number + 2, resident=(busy, *report.resident[1:]))
        samples.append(_time(lambda new=fresh: view.with_report(new, 0.0)) * 1e6)  # type: ignore[misc]
    return median(samples)


def _time(decide: Callable[[], object]) -> float:
    start = time.perf_counter()
    decide()
    return time.perf_counter() - start


def rows_for(nodes: int, models: int, goal_us: float, repetitions: int) -> list[Row]:
    view = synthetic_view(nodes, models)
    requests = [synthetic_request(number, seed=number) for number in range(models)]
    kinds = {
        f"loaded on {len(view.hosts(requests[0].model))} nodes": requests[:1],
        "loaded somewhere": [request for request in requests[1:] if view.hosts(request.model)],
        "to be loaded": [request for request in requests if not view.hosts(request.model)],
    }
    label = f"{nodes:,} nodes, {models:,} models"
    rows = []
    for kind, asked in kinds.items():
        if not asked:
            continue
        timing = measure(view, asked, repetitions)
        goal = Goal("value", "<=", goal_us)
        rows.append(Row("routing", label, f"{kind} ({len(asked)}), mean", "µs", timing.mean_us, goal=goal))
        rows.append(Row("routing", label, f"{kind}, p99", "µs", percentile(timing.samples_us, 0.99), goal=goal))
        rows.append(Row("routing", label, f"{kind}, worst", "µs", max(timing.samples_us)))
    rows.append(Row("routing", label, "a report into the view", "µs", measure_update(view, repetitions)))
    return rows


def main(argv: list[str]) -> int:
    """Print the table; 1 where a goal is missed."""
    repetitions = 3 if "--quick" in argv else REPETITIONS
    rows = [row for size in SIZES for row in rows_for(*size, repetitions)]
    print(table(rows))
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
