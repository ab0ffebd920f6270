"""One runner as the daemon sees it: frames out, frames in, every job's events to that job's reader.

One task reads the socket for all jobs. The end of the socket, a frame that makes no sense, or a runner that
neither answers nor computes for too long all end the same way: the process goes, and each open job gets
`RunnerLost`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from node.errors import Closing, JobFailed, LoadFailure, RunnerLost
from node.jobs import Done, Embedded, EmbedJob, Event, Failed, Job, Rendered
from node.report import PrefixHash
from node.runner.protocol import (
    FRAME_HEADER_BYTES,
    MAX_FRAME_BYTES,
    Cancel,
    Embed,
    Events,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    LoadSpec,
    Render,
    Reply,
    Request,
    Standing,
    Submit,
    decode_reply,
    frame,
)
from node.supervisor.channel import JobChannel
from node.supervisor.process import RunnerProcess

log = logging.getLogger(__name__)

AnyJob = TypeVar("AnyJob", Job, EmbedJob)

# With open jobs a runner computes without pause, so this long without a frame and without using any processor
# time is a hang. Silence alone is none: the prompt of a large model on a slow machine can take many minutes.
HANG_LIMIT_S = 60.0
_HANG_LOOKS = 4
_EXIT_REPORT_S = 2.0


class Runner:
    """A loaded model in its process. Made by `start`; `lost` is done once the process can serve no more.

    `backlog_tokens` and `prefixes` are how its engine stands (see `node.runner.protocol.Standing`).
    """

    def __init__(self, name: str, process: RunnerProcess, hang_limit_s: float) -> None:
        self.name = name
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.backlog_tokens = 0
        self.prefixes: frozenset[PrefixHash] = frozenset()
        self._process = process
        self._hang_limit_s = hang_limit_s
        self._numbers = itertools.count(1)
        self._channels: dict[str, JobChannel] = {}
        self._replies: asyncio.Queue[LoadProgress | Loaded | LoadFailed] = asyncio.Queue()
        self._last_frame_s = time.monotonic()
        self._stopping: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    async def start(
        cls,
        name: str,
        spec: LoadSpec,
        *,
        stall_limit_s: float,
        command: Sequence[str] | None = None,
        hang_limit_s: float = HANG_LIMIT_S,
    ) -> tuple[Runner, Loaded]:
        """Start a process and load the model in it; if that is cancelled or fails, nothing is left behind.

        Args:
            name: of the model, for texts meant for people.
            stall_limit_s: longest time without progress.
        Raises: LoadFailure.
        """
        try:
            process = await RunnerProcess.spawn(command)
        except OSError as error:
            raise LoadFailure(f"can't start a runner for model '{name}': {error}") from None
        runner = cls(name, process, hang_limit_s)
        try:
            await runner._connect()
            return runner, await runner._load(spec, stall_limit_s)
        except BaseException:
            process.kill()  # it may be reading gigabytes and would not notice a closed socket soon
            await runner.stop()
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_lost(self) -> bool:
        """Whether it can serve no more."""
        return self.lost.done()

    async def run(self, job: Job) -> AsyncGenerator[Event, None]:
        """Generate: `Delta` ... and `Done`. Closing the iterator cancels.

        Raises: JobFailed, RunnerLost, SlowReader; Closing: it was let go.
        """
        async with aclosing(self._ask(job, Submit)) as events:
            async for event in events:
                yield event
                if isinstance(event, Done):
                    return

    async def embed(self, job: EmbedJob) -> Embedded:
        """Embed texts. Raises JobFailed, RunnerLost, Closing."""
        async with aclosing(self._ask(job, Embed)) as events:
            async for event in events:
                if isinstance(event, Embedded):
                    return event
        raise self._loss()

    async def render(self, job: Job) -> Rendered:
        """Only render the prompt. Raises JobFailed, RunnerLost."""
        async with aclosing(self._ask(job, Render)) as events:
            async for event in events:
                if isinstance(event, Rendered):
                    return event
        raise self._loss()

    def let_go(self) -> None:
        """End every open job; its reader gets what has come until now, and then Closing."""
        for channel in self._channels.values():
            channel.fail(Closing())

    async def stop(self) -> None:
        """End the process and every open job; returns when it is gone. May be called many times."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop runner {self.pid}")
        await asyncio.shield(self._stopping)

    async def _ask(self, job: AnyJob, request: Callable[[AnyJob], Request]) -> AsyncGenerator[Event, None]:
        """Send a request and yield what comes back for it; cancel it if the reader leaves early."""
        if self.is_lost:
            raise self._loss()
        # On the wire jobs have numbers of ours: events of a cancelled one may still come, and askers who know
        # nothing of each other may choose the same id.
        number = str(next(self._numbers))
        channel = JobChannel(number)
        if not self._channels:
            self._last_frame_s = time.monotonic()
        self._channels[number] = channel
        ended = False
        try:
            await self._send(request(replace(job, id=number)))
            while True:
                event = replace(await channel.get(), job=job.id)
                ended = isinstance(event, Done | Failed | Embedded | Rendered)
                if isinstance(event, Failed):
                    raise JobFailed(event)
                yield event
        finally:
            del self._channels[number]
            if not ended:
                self._post(Cancel(number))

    async def _connect(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._process.connection)
        self._tasks = [
            asyncio.create_task(self._read(reader), name=f"read runner {self.pid}"),
            asyncio.create_task(self._watch(), name=f"watch runner {self.pid}"),
        ]

    async def _load(self, spec: LoadSpec, stall_limit_s: float) -> Loaded:
        await self._send(Load(spec))
        while True:
            try:
                async with asyncio.timeout(None if stall_limit_s == float("inf") else stall_limit_s):
                    reply = await self._next_reply()
            except TimeoutError:
                raise LoadFailure(
                    f"loading model '{self.name}' made no progress for {stall_limit_s:.0f} s and was given up"
                ) from None
            if isinstance(reply, Loaded):
                return reply
            if isinstance(reply, LoadFailed):
                raise LoadFailure(reply.message)

    async def _next_reply(self) -> LoadProgress | Loaded | LoadFailed:
        reply = asyncio.ensure_future(self._replies.get())
        awaited: list[asyncio.Future[Any]] = [reply, self.lost]
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if reply.done():
                return reply.result()
        finally:
            reply.cancel()
        complaint = self._process.complaints().rpartition("\n")[2]
        words = f" ({complaint})" if complaint else ""
        raise LoadFailure(f"the runner of model '{self.name}' failed while loading: {self.lost.result()}{words}")

    async def _send(self, request: Request) -> None:
        """Hand a request over; waits while the runner takes no more. Raises RunnerLost."""
        body = frame(request)
        if len(body) > MAX_FRAME_BYTES + FRAME_HEADER_BYTES:
            raise JobFailed(Failed(job="", kind="bad_request", message="the request is too large for a runner"))
        writer = self._writer
        if writer is None or not self._takes_requests:
            raise self._loss()
        writer.write(body)
        try:
            await writer.drain()
        except (ConnectionError, OSError):
            raise self._loss() from None

    def _post(self, request: Request) -> None:
        """Hand a small request over without waiting; a runner that is gone needs none."""
        if self._writer is not None and self._takes_requests:
            self._writer.write(frame(request))

    @property
    def _takes_requests(self) -> bool:
        """Whether there is still somebody to write to; the connection of one that was killed closes before it is lost.

        uvloop raises RuntimeError where something is written to a closed connection.
        """
        return self._writer is not None and not self.is_lost and not self._writer.transport.is_closing()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                header = await reader.readexactly(FRAME_HEADER_BYTES)
                if (length := int.from_bytes(header, "little")) > MAX_FRAME_BYTES:
                    raise msgspec.DecodeError(f"a frame of {length} bytes")
                self._take(decode_reply(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            await self._report_end()
        except msgspec.DecodeError as error:
            log.error("runner %d of model %s sent nonsense: %s", self.pid, self.name, error)
            self._lose("it sent nonsense")

    async def _report_end(self) -> None:
        reason = "it closed its connection"
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_REPORT_S):
                reason = await self._process.ending()
        self._lose(reason)

    def _take(self, reply: Reply) -> None:
        self._last_frame_s = time.monotonic()
        if isinstance(reply, Standing):
            self.backlog_tokens = reply.backlog_tokens
            if reply.prefixes is not None:
                self.prefixes = reply.prefixes
            return
        if not isinstance(reply, Events):
            self._replies.put_nowait(reply)
            return
        for event in reply.events:
            channel = self._channels.get(event.job)
            if channel is not None and not channel.put(event):
                log.warning("job %s on runner %d cancelled: its reader is too slow", event.job, self.pid)
                self._post(Cancel(event.job))

    def _lose(self, reason: str) -> None:
        """Say that the runner is gone, once: to every job's reader and to whoever waits for `lost`."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        for channel in self._channels.values():
            channel.fail(self._loss())

    def _loss(self) -> RunnerLost:
        return RunnerLost(self.name, self.lost.result() if self.lost.done() else "its connection broke")

    async def _watch(self) -> None:
        """Notice a hang: open jobs, no frame, and no processor time used, for the whole limit."""
        used_s, since_s = -1.0, time.monotonic()
        while not self.is_lost:
            await asyncio.sleep(self._hang_limit_s / _HANG_LOOKS)
            now = time.monotonic()
            current_s = _processor_time_s(self.pid) if self._channels else -1.0
            if current_s != used_s or current_s < 0:
                used_s, since_s = current_s, now
            if now - max(since_s, self._last_frame_s) >= self._hang_limit_s:
                log.error("runner %d of model %s hangs and is ended", self.pid, self.name)
                self._lose(f"it did nothing for {self._hang_limit_s:.0f} s")
                self._process.kill()

    async def _stop(self) -> None:
        self._lose("it was unloaded")
        if self._writer is not None:
            self._writer.transport.abort()
        else:
            self._process.connection.close()
        await self._process.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _processor_time_s(pid: int) -> float:
    """Processor time the process has used, of all its threads; -1: it is gone."""
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return -1.0
    return float(times.user + times.system)
