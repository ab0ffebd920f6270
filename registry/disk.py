"""What every file of a models folder needs of the disk: that a rename lasts, and that a full disk is told as such."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from registry.errors import StorageFull

# EFBIG: a file-size limit (ulimit -f, FAT); EDQUOT: a quota. All mean that this file can't grow here.
_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def telling_when_full(directory: Path, needed_bytes: int) -> Iterator[None]:
    """Raise StorageFull in the place of the system's errors that mean so.

    What was written has to be removed within the block, so that the bytes told as free are.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in _FULL_ERRNOS:
            raise
        free_bytes = shutil.disk_usage(directory).free
        raise StorageFull(directory, needed_bytes, free_bytes, os.strerror(error.errno)) from error


def fsync_directory(directory: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
