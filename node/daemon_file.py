"""How a running daemon is found on its own machine: one small file per port, written by it, removed when it ends.

The file says which process answers there, so that `ayni shutdown` can stop exactly that one: a record counts only
while a process with its id *and* its start time is alive (ids are reused). It also holds the key that opens what only
the daemon's user may do there; the key is new with each daemon, so one that was told to the wrong listener is worth
nothing to it.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from node.private_folder import make_private_folder

# psutil derives a process's start from the machine's boot time, which a clock correction shifts a little.
START_TOLERANCE_S = 3.0
MAX_RECORD_BYTES = 64 * 1024


class DaemonRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A daemon that is, or was, serving on this machine.

    Attributes:
        started_at: its process's start in epoch seconds.
        key: proves to it that its own user asks. Secret; "": it is of a version that has none.
    """

    pid: int
    started_at: float
    host: str
    port: int
    version: str
    key: str = ""

    def __repr__(self) -> str:
        return f"DaemonRecord(pid={self.pid}, host={self.host!r}, port={self.port})"


def daemon_file(state_dir: Path, port: int) -> Path:
    """Where the daemon that listens on `port` describes itself."""
    return state_dir / daemon_file_name(port)


def daemon_file_name(port: int | str) -> str:
    """The name of that file."""
    return f"daemon-{port}.json"


def write_daemon_record(state_dir: Path, *, host: str, port: int, version: str, key: str) -> DaemonRecord:
    """Publish the calling process as the daemon on `port`, readable by its user only. Raises OSError."""
    import psutil

    record = DaemonRecord(
        pid=os.getpid(), started_at=psutil.Process().create_time(), host=host, port=port, version=version, key=key
    )
    make_private_folder(state_dir)
    final = daemon_file(state_dir, port)
    partial = final.with_suffix(".partial")
    partial.unlink(missing_ok=True)  # of one that was killed
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(record))
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)
    return record


def read_daemon_record(state_dir: Path, port: int) -> DaemonRecord | None:
    """The record of the daemon on `port`, alive or not; None where there is none or it can't be understood."""
    try:
        with daemon_file(state_dir, port).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_RECORD_BYTES), type=DaemonRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def is_running(record: DaemonRecord) -> bool:
    """Whether the very process that wrote this record is still alive (a zombie is not)."""
    import psutil

    try:
        process = psutil.Process(record.pid)
        started = process.create_time()
        return abs(started - record.started_at) <= START_TOLERANCE_S and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def remove_daemon_record(state_dir: Path, record: DaemonRecord) -> None:
    """Take back a record, unless another daemon has written its own in the meantime."""
    if read_daemon_record(state_dir, record.port) == record:
        daemon_file(state_dir, record.port).unlink(missing_ok=True)
