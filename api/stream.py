"""Answers while they are made: a lean ASGI response for streams, and work that ends when the client is gone.

Nothing here knows an API's shape: chunks are bytes, made elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.errors import EXPECTED_ERRORS, Fault, fault_of
from api.request_record import CLIENT_LEFT, note_error
from node.jobs import Delta, Done, Event, TokenLogprob, ToolCall

Result = TypeVar("Result")
# Events that wait while a slow client takes its chunks; the node has bounds of its own behind this one.
MERGE_QUEUE_EVENTS = 64
_Queue: TypeAlias = "asyncio.Queue[tuple[int, Event | Exception | None]]"


class ClientGone(Exception):
    """The client closed its connection before the answer was complete; the work has been cancelled."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work unless the client goes away first, in which case it is cancelled. Raises: ClientGone.

    `receive` must be at the end of the request's body.
    """
    worker = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((worker, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientGone
        return worker.result()
    finally:
        watcher.cancel()
        if not worker.done():
            worker.cancel()
            await asyncio.wait((worker,))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class ChunkStream(Response):
    """A response whose chunks are sent as they come, one write each.

    An error before the first chunk gets its own status code; a later one becomes the last chunk.
    """

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], *, media_type: str, error_chunk: Callable[[Fault], bytes]
    ) -> None:
        self.chunks = chunks
        self.media_type = media_type
        self.error_chunk = error_chunk
        self.background = None
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the end, or until the client is gone."""
        try:
            await while_connected(receive, self._stream(scope, send))
        except ClientGone as gone:
            note_error(gone, CLIENT_LEFT)

    async def _stream(self, scope: Scope, send: Send) -> None:
        started = False
        # Closing the chunks closes the events behind them, which cancels the job.
        async with aclosing(self.chunks) as chunks:
            try:
                async for chunk in chunks:
                    if not started:
                        started = True
                        content_type = (self.media_type or "").encode()
                        headers = [(b"content-type", content_type), (b"cache-control", b"no-cache")]
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except EXPECTED_ERRORS as error:
                fault = fault_of(error)
                note_error(error, fault.status)
                if not started:
                    await fault_response(fault, scope["path"])(scope, _nothing, send)
                    return
                await send({"type": "http.response.body", "body": self.error_chunk(fault), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _nothing() -> Any:
    raise AssertionError("a plain response does not receive")


def fault_response(fault: Fault, path: str) -> Response:
    """An error by itself, in the shape of the API under this path."""
    return Response(fault.body(path), fault.status, dict(fault.headers), media_type="application/json")


@dataclass(slots=True)
class Answer:
    """Everything that one job delivered."""

    text: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    done: Done | None = None


async def collect(events: AsyncGenerator[Event, None]) -> Answer:
    """Wait for a job to end. Raises what the events raise."""
    texts, thoughts, answer = [], [], Answer()
    async with aclosing(events) as stream:
        async for event in stream:
            match event:
                case Delta():
                    texts.append(event.text)
                    thoughts.append(event.thinking)
                    answer.tool_calls += event.tool_calls
                    answer.logprobs += event.logprobs
                case Done():
                    answer.done = event
    answer.text, answer.thinking = "".join(texts), "".join(thoughts)
    return answer


async def collect_all(runs: Sequence[AsyncGenerator[Event, None]]) -> list[Answer]:
    """Wait for several jobs; the first that fails cancels the others and its error is raised."""
    tasks = [asyncio.create_task(collect(run)) for run in runs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def merge(runs: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of several jobs as they come, each with its job's index; the first error is raised."""
    if len(runs) == 1:
        async with aclosing(runs[0]) as only:
            async for event in only:
                yield 0, event
        return
    queue: _Queue = asyncio.Queue(MERGE_QUEUE_EVENTS)
    tasks = [asyncio.create_task(_pump(index, run, queue)) for index, run in enumerate(runs)]
    running = len(tasks)
    try:
        while running:
            index, item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield index, item
    finally:
        await _end(tasks)


async def _pump(index: int, run: AsyncGenerator[Event, None], queue: _Queue) -> None:
    """Pass on events, then the error if there is one, then None."""
    try:
        async with aclosing(run) as events:
            async for event in events:
                await queue.put((index, event))
    except Exception as error:  # whoever reads the queue raises it again
        await queue.put((index, error))
    await queue.put((index, None))


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
