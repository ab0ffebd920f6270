"""End a Ray session's processes, all of them and no others.

`ray stop` looks at every process of the machine; here a session is its session id plus its working directory, a
folder of a random name. Every process that `ray start` leaves behind, workers included, keeps both (but not its
environment: several of them write their title over it).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

END_LIMIT_S = 3.0
_LOOK_AGAIN_S = 0.02


def members(session_id: int, folder: Path) -> dict[int, list[str]]:
    """The living processes of a session and their command lines.

    A process counts if its session id *and* its folder agree: ids are used again once a session is gone.
    """
    import psutil

    place = str(folder.resolve())
    found = {}
    for pid in psutil.pids():
        try:
            if os.getsid(pid) != session_id:
                continue
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == place:
                found[pid] = process.cmdline()
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return found


def end(session_id: int, folder: Path, limit_s: float = END_LIMIT_S) -> bool:
    """Kill a session, at once and whole. Returns: whether nothing of it is left after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while left := members(session_id, folder):
        for pid in left:
            kill(pid)
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_LOOK_AGAIN_S)
    return True


def kill(pid: int) -> None:
    """SIGKILL, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
