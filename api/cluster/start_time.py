"""When this daemon started, so that each start counts as later than the one before, whatever the clock says.

Other nodes tell a new process from an old one, and a newer report from an older one, by this time. A clock that was
set back in between must not make all that the new process says look outdated.
"""

from __future__ import annotations

import logging
from pathlib import Path

from node.identity import UnusableFile, read_private, write_private

log = logging.getLogger(__name__)

FILE = "started"
_STEP_S = 0.001


def start_time(folder: Path, now_s: float) -> float:
    """The clock's time, or just after the last start on record here if that is later; put on record."""
    started_s = max(now_s, _last_start(folder / FILE) + _STEP_S)
    try:
        write_private(folder / FILE, repr(started_s).encode())
    except OSError as error:  # the disk is full; the clock alone does, as long as nobody sets it back
        log.warning("the time of this start is not kept: %s", error)
    return started_s


def _last_start(path: Path) -> float:
    try:
        return float(read_private(path)) if path.exists() else 0.0
    except (UnusableFile, ValueError) as error:
        log.warning("the time of the last start is not known: %s", error)
        return 0.0
