"""Start a node in the background, and stop one: what `run` does where nothing answers, and the verb shutdown.

The new node gets a session of its own, so that neither a closed terminal nor Ctrl-C in this command ends it, and
writes to a log file. Whether a process may be stopped is decided by the record it left (`node.daemon_file`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cli.client import Client
from cli.errors import CommandError, NotRunning
from cli.terminal import stderr_spinner
from cli.text import cell, printable
from node.daemon_file import DaemonRecord, is_running, read_daemon_record
from node.private_folder import make_private_folder
from node.settings import Settings

START_TIMEOUT_S = 60.0
# Beside `drain_timeout`: for runners and Ray to end.
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05
# An old log is kept once under another name, so that a node that fails for weeks does not fill the disk.
MAX_LOG_BYTES = 10 * 1024 * 1024
TAIL_BYTES = 4096


def answers(client: Client) -> bool:
    """Whether anything accepts connections and speaks HTTP at the node's address."""
    try:
        client.ask("GET", "/api/version")
    except NotRunning:
        return False
    return True


def ensure_node(client: Client, settings: Settings) -> None:
    """Return once a node answers, started here in the background if need be; says so on stderr.

    Raises: NotRunning: nothing answers, and the address is another machine's. CommandError: the new node did not
        come up.
    """
    try:
        client.ask("GET", "/api/version")
        return
    except NotRunning:
        if not client.address.is_this_machine:
            raise
    log = log_file(settings)
    print(f"Starting a node in the background (its log: {log}; stop it with: ayni shutdown)", file=sys.stderr)
    earlier_bytes = log.stat().st_size if log.exists() else 0
    process = start_node(log)
    deadline = time.monotonic() + START_TIMEOUT_S
    with stderr_spinner("starting"):
        while time.monotonic() < deadline:
            if answers(client):
                return
            if process.poll() is not None:
                # Another command may have started one at the same moment, and ours found the port taken.
                if answers(client):
                    return
                raise CommandError(f"the node did not start: {last_words(log, earlier_bytes)}", f"Its log: {log}")
            time.sleep(POLL_S)
    raise CommandError(f"the node did not answer within {START_TIMEOUT_S:.0f} s", f"Its log: {log}")


def log_file(settings: Settings) -> Path:
    """Where a node that was started in the background writes."""
    return settings.log_dir / f"daemon-{settings.port}.log"


def start_node(log: Path) -> subprocess.Popen[bytes]:
    """Start `ayni serve` with this command's environment, detached. Raises CommandError: the log can't be written."""
    try:
        make_private_folder(log.parent)
        if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise CommandError(f"can't write the node's log {log}: {error.strerror}") from error
    with os.fdopen(descriptor, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "cli", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Where our packages are, so that the new process finds them however this one did.
            cwd=Path(__file__).resolve().parents[1],
            start_new_session=True,
        )


def last_words(log: Path, earlier_bytes: int) -> str:
    """The last line of a log beyond what was in it earlier, without the mark of an error before it."""
    size_bytes = log.stat().st_size
    start = earlier_bytes if earlier_bytes <= size_bytes else 0  # it has been put aside meanwhile
    with log.open("rb") as file:
        file.seek(max(start, size_bytes - TAIL_BYTES))
        lines = [line for line in printable(file.read().decode(errors="replace")).splitlines() if line.strip()]
    return (lines or ["it left no message"])[-1].removeprefix("Error: ")


def shut_down(settings: Settings) -> None:
    """Stop the daemon that listens at the configured port of this machine, and wait until it is gone.

    Raises: CommandError: there is none, it is another's, or it does not end in time.
    """
    address = settings.address
    if not address.is_this_machine:
        raise CommandError(f"{address.url} is another machine: run `ayni shutdown` there")
    record = read_daemon_record(settings.state_dir, settings.port)
    if record is None or not is_running(record):
        if answers(Client(address)):
            raise CommandError(f"what answers at {address.url} is no node started with this state folder")
        raise CommandError(f"no node is running at {address.url}")
    _end(record, settings.drain_timeout_s + STOP_TIMEOUT_S)
    print(f"stopped the node at {cell(record.host)}:{record.port}")


def _end(record: DaemonRecord, limit_s: float) -> None:
    """Ask the process to end and wait. Raises CommandError."""
    try:
        os.kill(record.pid, signal.SIGTERM)
    except PermissionError as error:
        raise CommandError(f"the node (process {record.pid}) belongs to another user") from error
    except ProcessLookupError:
        return
    deadline = time.monotonic() + limit_s
    with stderr_spinner("stopping"):
        while is_running(record):
            if time.monotonic() > deadline:
                raise CommandError(f"the node (process {record.pid}) has not ended within {limit_s:.0f} s")
            time.sleep(POLL_S)
