"""One change at a time to the manifests of a models folder, across threads and processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LOCK_FILE: Final = ".ayni.lock"


@contextlib.contextmanager
def store_lock(root: Path) -> Iterator[None]:
    """Hold the folder's lock. It is held for milliseconds: never while bytes are copied or hashed."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK_FILE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
