"""How many threads llama.cpp should use: as many as asked for, else the physical cores this process may run on."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def thread_count(asked: int | None) -> int:
    """Threads for one model; a wish ends at the processors of this machine.

    More than those only wait for each other, and thousands of them, which any request can ask for, stop the machine.
    """
    return min(asked, os.cpu_count() or 1) if asked else available_cores()


def available_cores() -> int:
    """Physical cores within this process's CPU affinity and cgroup quota; at least 1.

    Two threads of one core only wait for each other in llama.cpp's barriers, so siblings count once.
    """
    return max(1, min(_allowed_physical_cores(), _quota_cores(_read(_CPU_MAX))))


def _allowed_physical_cores() -> int:
    if not hasattr(os, "sched_getaffinity"):  # macOS: no affinity to respect
        import psutil

        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    siblings = {_read(Path(_SIBLINGS.format(cpu))).strip() or str(cpu) for cpu in allowed}
    return len(siblings)


def _quota_cores(cpu_max: str) -> int:
    """Whole cores of a cgroup-v2 `cpu.max` line such as "150000 100000"; no limit: very many."""
    quota, _, period = cpu_max.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return 1 << 16
    return max(1, math.floor(int(quota) / int(period)))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
