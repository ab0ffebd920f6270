"""Wall clocks that can be set, one for each machine, though all of them share the kernel's.

A time namespace can't shift the wall clock, and setting the kernel's would hit every program of this computer. So a
library of thirty lines stands before the daemon's calls for the time. Ray's processes keep the true time: they
wait for absolute times in the kernel, which would not know of the step.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


def can_be_set() -> bool:
    """Whether this system lets us do that."""
    return sys.platform == "linux" and shutil.which("cc") is not None


class WallClock:
    """One machine's clock, as its daemon sees it."""

    def __init__(self, folder: Path) -> None:
        """Compile what stands before the calls, once for each folder."""
        self._library, self._file = folder / "clock.so", folder / "clock"
        folder.mkdir(parents=True, exist_ok=True)
        compile_it = ["cc", "-shared", "-fPIC", "-O2", "-o", str(self._library), str(SOURCE)]
        subprocess.run(compile_it, check=True, capture_output=True, timeout=60)
        self._file.write_bytes(bytes(8))

    @property
    def environment(self) -> dict[str, str]:
        """What a process has to be started with."""
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._file)}

    def set_ahead(self, ahead_s: float) -> None:
        """Show the true time plus so many seconds from now on."""
        with self._file.open("r+b") as file:  # the same file, which they have mapped
            file.write(struct.pack("=q", int(ahead_s * 1e9)))
