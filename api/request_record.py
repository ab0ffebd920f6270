"""What became of one request that makes a model work: filled in on its way by whoever learns something of it.

Never a word of what was asked or answered: names, numbers and times.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from node.jobs import Delta, Done, Event
from node.route_trace import RouteTrace
from node.telemetry import Span

CLIENT_LEFT = 499  # nginx's number for it; no client ever sees it


@dataclass(slots=True)
class RequestRecord:
    """One request.

    Attributes:
        api: its path.
        asker: name of the token it came with; "": none.
        model: the full name of the model, once it is known to exist.
        status: as the client got it, or would have, had the stream not begun. `error`: the error's class.
        first_token_s: seconds until the first token of any answer; None: there was none.
        token_s: seconds per token of each answer that had several.
    """

    api: str
    span: Span
    asker: str = ""
    route: RouteTrace = field(default_factory=RouteTrace)
    started_s: float = field(default_factory=time.monotonic)
    model: str = ""
    status: int = 0
    error: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    first_token_s: float | None = None
    token_s: list[float] = field(default_factory=list)

    def fail(self, error: BaseException, status: int) -> None:
        """It ended, or was refused, with this error."""
        self.error, self.status = type(error).__name__, status

    def answer(self) -> AnswerClock:
        """One of its answers begins; a request for several choices has several."""
        return AnswerClock(self)


@dataclass(slots=True)
class AnswerClock:
    """Counts and times one answer; told of every event, and of the end."""

    record: RequestRecord
    first_s: float = 0.0
    last_s: float = 0.0
    tokens: int = 0
    later_tokens: int = 0

    def take(self, event: Event) -> None:
        """One more event; runs once for each token."""
        if type(event) is Delta:
            self.last_s = time.monotonic()
            if self.tokens:
                self.later_tokens += len(event.tokens)
            else:
                self.first_s = self.last_s
            self.tokens += len(event.tokens)
        elif type(event) is Done:
            record, usage = self.record, event.usage
            record.prompt_tokens += usage.prompt_tokens
            record.cached_tokens += usage.cached_tokens
            self.tokens = usage.output_tokens

    def end(self) -> None:
        """No more events; what was generated counts however it ended."""
        record = self.record
        record.output_tokens += self.tokens
        if self.first_s:
            seconds = self.first_s - record.started_s
            record.first_token_s = seconds if record.first_token_s is None else min(seconds, record.first_token_s)
        if self.later_tokens:
            record.token_s.append((self.last_s - self.first_s) / self.later_tokens)


# The record of the request that this task serves; None: it makes no model work.
REQUEST: ContextVar[RequestRecord | None] = ContextVar("request", default=None)


def note_error(error: BaseException, status: int) -> bool:
    """Put an error into the record of this task's request; False: there is none, so nobody will log it."""
    record = REQUEST.get()
    if record is not None:
        record.fail(error, status)
    return record is not None
