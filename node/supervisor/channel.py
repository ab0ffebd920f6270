"""Events of one job on their way to whoever reads them.

A runner's socket carries many jobs, so it is always read at once and never waits for a slow reader. What one
reader has not taken yet is kept for it, neighbouring deltas joined into one when it comes; beyond a limit the job
fails with `SlowReader`, which costs that reader's job and nobody else's.
"""

from __future__ import annotations

import asyncio
from collections import deque

from node.errors import NodeError, SlowReader
from node.jobs import Delta, Event

# A reader that is a whole context of text behind is not reading: 262,144 tokens are about 1 MiB, logprobs more.
MAX_PENDING_BYTES = 16 << 20
_EVENT_BYTES = 128
_TOKEN_BYTES = 8
_LOGPROB_BYTES = 96


class JobChannel:
    """A queue with one reader; bounded by bytes, not by events."""

    def __init__(self, job: str, *, limit_bytes: int = MAX_PENDING_BYTES) -> None:
        self.job = job
        self._limit_bytes = limit_bytes
        self._events: deque[Event] = deque()
        self._pending_bytes = 0
        self._error: NodeError | None = None
        self._changed = asyncio.Event()

    def put(self, event: Event) -> bool:
        """Add an event; False: too much is pending, the channel has failed and the job should be cancelled."""
        if self._error is not None:
            return True
        self._events.append(event)
        self._pending_bytes += event_bytes(event)
        self._changed.set()
        if self._pending_bytes <= self._limit_bytes:
            return True
        self.fail(SlowReader(self._pending_bytes))
        self._events.clear()
        return False

    def fail(self, error: NodeError) -> None:
        """End the channel: the reader gets what is pending, then this error."""
        if self._error is None:
            self._error = error
            self._changed.set()

    async def get(self) -> Event:
        """The next event, with all deltas that follow on each other in one. Raises NodeError: the channel's end."""
        while not self._events:
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()
        event = self._events.popleft()
        self._pending_bytes -= event_bytes(event)
        if not isinstance(event, Delta):
            return event
        run, reached = [event], _last_part(event)
        while self._events and isinstance(follower := self._events[0], Delta) and _first_part(follower) >= reached:
            self._events.popleft()
            self._pending_bytes -= event_bytes(follower)
            run.append(follower)
            reached = max(reached, _last_part(follower))
        return event if len(run) == 1 else join(run)


def event_bytes(event: Event) -> int:
    """Roughly what an event occupies."""
    if not isinstance(event, Delta):
        return _EVENT_BYTES
    alternatives = sum(1 + len(logprob.top) for logprob in event.logprobs)
    return (
        _EVENT_BYTES * (1 + len(event.tool_calls))
        + len(event.text)
        + len(event.thinking)
        + _TOKEN_BYTES * len(event.tokens)
        + _LOGPROB_BYTES * alternatives
    )


def join(deltas: list[Delta]) -> Delta:
    """One delta that says what these say, in order."""
    return Delta(
        job=deltas[0].job,
        text="".join(delta.text for delta in deltas),
        thinking="".join(delta.thinking for delta in deltas),
        tool_calls=tuple(call for delta in deltas for call in delta.tool_calls),
        tokens=tuple(token for delta in deltas for token in delta.tokens),
        logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
    )


# Joining keeps the order, since a delta's reader takes thinking first, then text, then tool calls.
_PARTS = ("thinking", "text", "tool_calls")


def _first_part(delta: Delta) -> int:
    return min((rank for rank, part in enumerate(_PARTS) if getattr(delta, part)), default=len(_PARTS))


def _last_part(delta: Delta) -> int:
    return max((rank for rank, part in enumerate(_PARTS) if getattr(delta, part)), default=0)
