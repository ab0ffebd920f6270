"""One client floods a model with requests: what do the others wait, against what their fair share would give them?

The real queue (`coordinator.queue`) in front of one instance with four sequences. A client's fair share is that
instance, slower by the number of clients, to itself alone. Its wait is what a request takes beyond the time it would
take on an idle instance, in both cases.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from dataclasses import dataclass

from bench.report import Goal, Row
from bench.stats import median
from coordinator.queue import FairQueue, Queued, Share

CLIENTS = 8
SEQUENCES = 4
MEAN_JOB_S = 4.0
SECONDS = 3600.0
# Of a polite client's fair share.
POLITE_LOAD = 0.6


@dataclass(frozen=True, slots=True)
class Job:
    came_s: float
    client: str
    takes_s: float


def flood_rows(seed: int) -> list[Row]:
    """The worst client's mean wait over that in its fair share, with the flood and, for comparison, first come first
    served; how far the estimates are off."""
    jobs = _jobs(random.Random(seed))
    fair, said = _queued(jobs)
    plain = _first_come(jobs)
    polite = [f"client {number}" for number in range(CLIENTS)]
    shares = {client: _alone([job for job in jobs if job.client == client]) for client in polite}
    worst = max(polite, key=lambda client: _mean(fair[client]) / shares[client])
    return [
        Row(
            "simulate",
            f"flood, {CLIENTS} others",
            "wait of the worst-off client",
            "s",
            _mean(fair[worst]),
            shares[worst],
            "its fair share",
            Goal("ratio", "<=", 2.0),
        ),
        Row(
            "simulate",
            f"flood, {CLIENTS} others",
            "wait of the worst-off client",
            "s",
            _mean(fair[worst]),
            _mean(plain[worst]),
            "first come first served",
        ),
        Row("simulate", f"flood, {CLIENTS} others", "true wait / said wait, median", "", median(said)),
    ]


def _jobs(chance: random.Random) -> list[Job]:
    """Polite clients at a part of their share; one that asks for ten times the whole, from the first minute on."""
    capacity = SEQUENCES / MEAN_JOB_S
    found = []
    rates = {f"client {number}": POLITE_LOAD * capacity / (CLIENTS + 1) for number in range(CLIENTS)}
    for client, per_s in {**rates, "flood": 10 * capacity}.items():
        at = 60.0 if client == "flood" else 0.0
        while (at := at + chance.expovariate(per_s)) < SECONDS:
            # Heavy-tailed, capped at ten times the mean.
            found.append(Job(at, client, min(10 * MEAN_JOB_S, MEAN_JOB_S / 3 * chance.paretovariate(1.5))))
    return sorted(found, key=lambda job: job.came_s)


def _queued(jobs: list[Job]) -> tuple[dict[str, list[float]], list[float]]:
    """Waits by client, and true waits over the estimates given on arrival."""
    queue = FairQueue(512)
    jobs_of: dict[int, Job] = {}
    said: dict[int, float] = {}
    waits: defaultdict[str, list[float]] = defaultdict(list)
    ratios: list[float] = []
    running: list[float] = []
    coming = list(reversed(jobs))
    while coming or len(queue):
        # The next thing to happen: a request comes, or a sequence becomes free.
        if coming and (not running or coming[-1].came_s <= running[0]):
            job = coming.pop()
            now = job.came_s
            answer = queue.push(job.client, now, share=Share(), cost=1.0)
            if isinstance(answer, Queued):
                jobs_of[answer.ticket.number] = job
                said[answer.ticket.number] = queue.wait_s(answer.ticket)
        else:
            now = heapq.heappop(running)
        while len(running) < SEQUENCES and (ticket := queue.pop(now)):
            job = jobs_of.pop(ticket.number)
            heapq.heappush(running, now + job.takes_s)
            waits[job.client].append(now - job.came_s)
            if now > job.came_s and job.client != "flood":
                ratios.append((now - job.came_s) / max(1e-9, said[ticket.number]))
    return waits, ratios


def _first_come(jobs: list[Job]) -> dict[str, list[float]]:
    """The same through one bounded queue in order of arrival."""
    waits: defaultdict[str, list[float]] = defaultdict(list)
    running: list[float] = []
    starts: list[float] = []
    for job in jobs:
        while starts and starts[0] <= job.came_s:
            heapq.heappop(starts)
        if len(starts) >= 512:
            continue
        free = heapq.heappop(running) if len(running) >= SEQUENCES else job.came_s
        begins = max(job.came_s, free)
        heapq.heappush(running, begins + job.takes_s)
        heapq.heappush(starts, begins)
        waits[job.client].append(begins - job.came_s)
    return waits


def _alone(jobs: list[Job]) -> float:
    """Mean wait of a client alone on an instance of which it gets one part of `CLIENTS` + 1.

    Shared evenly among what it has running, as a fluid: its requests take at least as long as on the whole instance
    (one sequence's speed is not more than that), and longer if its part of the sequences is less than they need.
    """
    part = SEQUENCES / (CLIENTS + 1)
    now, total = 0.0, 0.0
    left: list[tuple[float, Job]] = []
    coming = list(reversed(jobs))
    while coming or left:
        # Every running request gets an equal part, of at most one sequence.
        speed = min(1.0, part / len(left)) if left else 1.0
        ends = now + min(job[0] for job in left) / speed if left else float("inf")
        comes = coming[-1].came_s if coming else float("inf")
        then = min(ends, comes)
        left = [(remaining - (then - now) * speed, job) for remaining, job in left]
        now = then
        if comes <= ends:
            job = coming.pop()
            left.append((job.takes_s, job))
        else:
            done = min(left, key=lambda item: item[0])
            left.remove(done)
            total += now - done[1].came_s - done[1].takes_s
    return total / len(jobs)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
