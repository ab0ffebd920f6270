"""Hand asks to the node, and put what comes of them into the request's record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from msgspec.structs import replace

from api.request_record import REQUEST, RequestRecord
from node.asker import ASKER
from node.telemetry.gen_ai import request_attributes

if TYPE_CHECKING:
    from api.asks import Ask, EmbedAsk
    from api.daemon import Daemon
    from node.jobs import Embedded, Event


async def run(daemon: Daemon, ask: Ask) -> AsyncGenerator[Event, None]:
    """The events of a job; closing the generator cancels it. Raises NodeError."""
    record = _record_of(ask)
    job, answer = replace(ask.job, trace=record.span.traceparent), record.answer()
    try:
        async with aclosing(daemon.node.run(ask.model, job, ask.load, ask.keep_alive_s)) as events:
            async for event in events:
                answer.take(event)
                yield event
    finally:
        answer.end()


def run_all(daemon: Daemon, asks: Sequence[Ask]) -> list[AsyncGenerator[Event, None]]:
    """The events of each of one request's jobs.

    A token that allows but so many requests at the same time has given this one a single place: its jobs then run one
    after the other.
    """
    runs, grant = [run(daemon, ask) for ask in asks], ASKER.get()
    if grant is None or grant.max_parallel is None:
        return runs
    place = asyncio.Lock()
    return [_in_turn(place, events) for events in runs]


async def _in_turn(place: asyncio.Lock, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    async with place, aclosing(events) as coming:
        async for event in coming:
            yield event


async def embed(daemon: Daemon, ask: EmbedAsk) -> Embedded:
    """The vectors of a job. Raises NodeError."""
    record = _record_of(ask)
    job = replace(ask.job, trace=record.span.traceparent)
    embedded = await daemon.node.embed(ask.model, job, ask.load, ask.keep_alive_s)
    record.prompt_tokens += embedded.prompt_tokens
    return embedded


def _record_of(ask: Ask | EmbedAsk) -> RequestRecord:
    """This request's record, which now says what is asked for."""
    record = REQUEST.get()
    assert record is not None, "a path that makes a model work is missing in api.metered"
    record.span.put(request_attributes(str(ask.model.name), ask.job))
    return record
