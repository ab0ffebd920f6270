"""Files that are ours alone: readable by nobody else, and there whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from pathlib import Path

from node.identity.errors import UnusableFile

MAX_FILE_BYTES = 64 << 20


def private_folder(folder: Path) -> Path:
    """Make the folder and close it to others. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def write_private(path: Path, content: bytes) -> None:
    """Replace the file by one with mode 0600 that holds `content`, on disk when this returns. Raises OSError."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # The mode is set when the file is made: at no moment could another user open it.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_partials(folder: Path) -> None:
    """Remove what a process that was killed while it wrote or removed something has left anywhere below the folder.

    Only for who alone writes there. Raises OSError.
    """
    for path in list(folder.rglob(".*")):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}", path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def read_private(path: Path) -> bytes:
    """Read a file of ours.

    Raises: UnusableFile: missing, unreadable, too large, or readable by other users.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UnusableFile(path, f"other users can read this secret (mode {mode:04o}); run `chmod 600` on it")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnusableFile(path, f"can't be read ({error.strerror})") from None
    if len(content) > MAX_FILE_BYTES:
        raise UnusableFile(path, "is far larger than it should be")
    return content


def publish_folder(partial: Path, final: Path) -> None:
    """Give a folder its name, with everything in it. Raises OSError: the name is taken."""
    partial.rename(final)
    _sync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that what remains after a crash is never taken for a whole one. Raises OSError."""
    doomed = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
