"""The runner's end of the socket, writing: one frame for all that a step produced, and never more in memory than
the daemon is willing to read.

Any thread may send. A frame normally leaves in one system call of the sending thread; what the socket does not
take at once stays here, and further events join it. When too much has gathered, `send` waits: a daemon that does
not read stops the generation instead of filling the memory.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Sequence

from node.jobs import Delta, Event
from node.runner.protocol import Events, Reply, frame

# What may gather before senders wait: some hundred steps of a few streams. Events are counted apart since their
# size is known only once they are encoded; one with log-probabilities holds some kilobytes.
MAX_PENDING_BYTES = 1 << 20
MAX_PENDING_EVENTS = 4_000
_FLUSH_WAIT_MS = 100


class DaemonGone(Exception):
    """The socket is closed; nobody wants anything from this runner any more."""


def merge_deltas(events: Sequence[Event]) -> list[Event]:
    """Join each job's consecutive deltas into one; the order within every job stays."""
    merged: list[Event] = []
    last_of: dict[str, int] = {}
    for event in events:
        at = last_of.get(event.job)
        before = merged[at] if at is not None else None
        if isinstance(event, Delta) and isinstance(before, Delta) and at is not None:
            if not _in_emission_order(before, event):
                last_of[event.job] = len(merged)
                merged.append(event)
                continue
            merged[at] = Delta(
                job=event.job,
                text=before.text + event.text,
                thinking=before.thinking + event.thinking,
                tool_calls=before.tool_calls + event.tool_calls,
                tokens=before.tokens + event.tokens,
                logprobs=before.logprobs + event.logprobs,
            )
        else:
            last_of[event.job] = len(merged)
            merged.append(event)
    return merged


def _in_emission_order(first: Delta, second: Delta) -> bool:
    """Whether a reader of the joined delta (thinking, then text, then calls) sees the same sequence."""
    if first.tool_calls and (second.text or second.thinking):
        return False
    return not (first.text and second.thinking)


class Outlet:
    """Frames messages onto a socket, which becomes non-blocking for this side's writes.

    Raises (from `send` and `reply`): DaemonGone.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = threading.Lock()
        self._unsent = bytearray()
        self._events: list[Event] = []
        self._behind = False  # events of several steps may have gathered
        self._waker = threading.Event()
        threading.Thread(target=self._flush_leftovers, name="outlet", daemon=True).start()

    def reply(self, message: Reply) -> None:
        """Send a message that is not an event."""
        with self._lock:
            self._unsent += frame(message)
            self._write()

    def send(self, events: Sequence[Event]) -> None:
        """Send events in one frame; waits while the daemon is far behind."""
        with self._lock:
            self._events += events
            self._write()
            while len(self._unsent) > MAX_PENDING_BYTES or len(self._events) > MAX_PENDING_EVENTS:
                self._wait_writable(None)
                self._write()

    def drain(self, timeout_s: float) -> None:
        """Wait until everything is written, at most so long."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with self._lock:
                self._write()
                if not self._unsent:
                    return
            self._wait_writable(_FLUSH_WAIT_MS)

    def _write(self) -> None:
        """Write what the socket takes now. Events become a frame only once the bytes before them are out."""
        while self._unsent or self._events:
            if not self._unsent:
                self._unsent += frame(Events(tuple(merge_deltas(self._events) if self._behind else self._events)))
                self._events = []
                self._behind = False
            try:
                sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._behind = True
                self._waker.set()
                return
            except OSError as error:
                raise DaemonGone from error
            del self._unsent[:sent]

    def _wait_writable(self, timeout_ms: int | None) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        poller.poll(timeout_ms)

    def _flush_leftovers(self) -> None:
        """Write what a sender had to leave, in case nobody sends after it."""
        while True:
            self._waker.wait()
            self._waker.clear()
            while self._unsent or self._events:
                self._wait_writable(_FLUSH_WAIT_MS)
                with self._lock:
                    try:
                        self._write()
                    except DaemonGone:
                        return
