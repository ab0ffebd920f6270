"""A disk of one machine's own that can be full: a small file system in memory, where this user may mount one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# The head's database takes some tens of MiB.
SIZE_BYTES = 192 << 20
_CHUNK_BYTES = 1 << 20


def can_be_mounted() -> bool:
    """Whether this user may mount a file system."""
    return sys.platform == "linux" and os.geteuid() == 0


class SmallDisk:
    """What is mounted at a folder, until `remove`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._filler = folder, folder / "filler"
        line = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0700", "chaos", str(folder)]
        subprocess.run(line, check=True, capture_output=True, timeout=10)

    @property
    def is_full(self) -> bool:
        return self._filler.exists()

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Not a byte is left within the block."""
        try:
            with self._filler.open("wb", buffering=0) as file:
                size_bytes = _CHUNK_BYTES
                while size_bytes:
                    try:
                        if file.write(bytes(size_bytes)) < size_bytes:
                            size_bytes //= 2
                    except OSError:
                        size_bytes //= 2
            yield
        finally:
            self._filler.unlink(missing_ok=True)

    def remove(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=False, capture_output=True, timeout=10)
