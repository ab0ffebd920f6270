"""How long the machine has slept, seen afterwards: one of its clocks went on meanwhile, the other did not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

# Two clocks are not read at the same moment; a real sleep takes longer than what can lie between.
LEAST_S = 2.0


def asleep_so_far_s() -> float:
    """Seconds that the machine has slept since some moment of the past."""
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC_RAW) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class SleepClock:
    """Asked from time to time, says how long the machine has slept since it was asked last."""

    def __init__(self, read: Callable[[], float] = asleep_so_far_s) -> None:
        self._read = read
        self._seen_s = read()

    def slept_s(self) -> float:
        """0.0: it has not slept."""
        before_s, self._seen_s = self._seen_s, self._read()
        slept_s = self._seen_s - before_s
        return slept_s if slept_s >= LEAST_S else 0.0
