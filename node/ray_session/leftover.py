"""What a daemon that was killed leaves behind, and how its successor finds it: one small file per state folder.

The file is written before the first process starts and removed after the last one has ended.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from node.ray_session import processes

log = logging.getLogger(__name__)

FILE = "session.json"
MAX_BYTES = 4096
# AF_UNIX paths end at 104 bytes on macOS, and Ray puts its sockets 62 bytes below a folder in the session's.
SHORT_ROOT = Path("/tmp")  # noqa: S108 - mkdtemp makes the folder, 0700
PREFIX = "ayni-ray-"


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session that runs, or ran when the daemon died. `session_id` 0: nothing was started yet."""

    session_id: int
    folder: Path


def make_session_folder(state: Path) -> Path:
    """A fresh folder that only this user can enter, with a short name, on record from the start. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=SHORT_ROOT))
    try:
        write_record(state, SessionRecord(session_id=0, folder=folder))
    except OSError:
        remove_session_folder(folder)
        raise
    return folder


def remove_session_folder(folder: Path) -> None:
    """Remove a folder of ours; of anything else, nothing."""
    if folder.parent == SHORT_ROOT and folder.name.startswith(PREFIX) and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def write_record(state: Path, record: SessionRecord) -> None:
    """Remember a session. Raises OSError."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = state / f"{FILE}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(record, enc_hook=str))
        partial.replace(state / FILE)
    finally:
        partial.unlink(missing_ok=True)


def forget_record(state: Path) -> None:
    """The session has ended."""
    (state / FILE).unlink(missing_ok=True)


def sweep(state: Path) -> bool:
    """End what an earlier daemon left, and remove its folder. Returns: whether there was anything."""
    try:
        with (state / FILE).open("rb") as file:
            record = msgspec.json.decode(file.read(MAX_BYTES), type=SessionRecord, dec_hook=_path)
    except FileNotFoundError:
        return False
    except (OSError, msgspec.DecodeError) as error:
        log.warning("the record of the last Ray session can't be read: %s", error)
        forget_record(state)
        return False
    left = processes.members(record.session_id, record.folder) if record.session_id else {}
    if left:
        log.info("ending the Ray session of an earlier daemon processes=%d", len(left))
        processes.end(record.session_id, record.folder)
    remove_session_folder(record.folder)
    forget_record(state)
    return bool(left)


def _path(kind: type, text: object) -> Path:
    if kind is not Path or not isinstance(text, str) or not text.startswith("/"):
        raise ValueError(text)
    return Path(text)
