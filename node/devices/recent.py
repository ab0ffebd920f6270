"""The machine as it was a moment ago, for those who ask often: looking at GPUs anew starts a process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from node.devices.source import Machine, MachineSource


class RecentMachine:
    """Another source, asked at most once in `age_s`."""

    def __init__(self, source: MachineSource, age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._source, self._age_s, self._clock = source, age_s, clock
        self._looked_s = -math.inf

    async def machine(self, *, refresh: bool) -> Machine:
        """The machine, at most so old; `refresh`: as it is now."""
        now_s = self._clock()
        refresh = refresh or now_s - self._looked_s > self._age_s
        if refresh:
            self._looked_s = now_s
        return await self._source.machine(refresh=refresh)
