"""The runner process: one model, three threads.

The main thread loads the model, owns it, and writes each step's events to the socket. It has to be the main one: with
llama.cpp's OpenMP threads, decoding from another costs up to a third of the speed. The reader thread takes requests,
so it notices a closed socket at any time, even while a model loads, and ends the process at once: there is nothing to
tidy up that the system does not. The intake thread renders and tokenises.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from node.engine.binding import Context, Model
from node.engine.embeddings import Embedder
from node.engine.errors import JobError, LoadError
from node.engine.llama_log import LlamaLog
from node.engine.loop import Engine
from node.jobs import Failed
from node.prompt import TemplateError
from node.runner.inlet import read_request
from node.runner.intake import Intake, load_template
from node.runner.outlet import DaemonGone, Outlet
from node.runner.protocol import (
    Cancel,
    Embed,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    LoadSpec,
    Render,
    Request,
    Submit,
)

EXIT_OK = 0
EXIT_LOAD_FAILED = 3
EXIT_FATAL = 70  # EX_SOFTWARE
# The main thread waits this long for the interpreter when the intake thread computes; Python's default of 5 ms
# would show in every step.
_SWITCH_INTERVAL_S = 0.0005
_LAST_WORDS_S = 2.0


@dataclass(frozen=True, slots=True)
class _Arrived:
    request: Submit | Embed | Render
    received_ns: int


class Runner:
    """Serves one socket until it closes. `exit_process` never returns; tests may pass another."""

    def __init__(self, connection: socket.socket, exit_process: Callable[[int], None]) -> None:
        self._connection = connection
        self._outlet = Outlet(connection)
        self._exit = exit_process
        self._to_load: queue.SimpleQueue[LoadSpec] = queue.SimpleQueue()
        self._arrived: queue.SimpleQueue[_Arrived] = queue.SimpleQueue()
        # Guards the two below: a job is cancelled either before the engine has it or through the engine.
        self._lock = threading.Lock()
        self._unprepared: set[str] = set()
        self._engine: Engine | Embedder | None = None

    def serve(self) -> None:
        """Load the model that the first request names and serve it until the daemon closes the socket."""
        threading.Thread(target=self._guarded, args=(self._read,), name="reader", daemon=True).start()
        self._guarded(lambda: self._own_model(self._to_load.get()))

    def _read(self) -> None:
        """The reader thread: requests from the socket, to whom they concern."""
        first = read_request(self._connection)
        if first is not None:
            if not isinstance(first, Load):
                raise TypeError(f"the first request must be Load, not {type(first).__name__}")
            self._to_load.put(first.spec)
            while (request := read_request(self._connection)) is not None:
                self._receive(request)
        self._exit(EXIT_OK)

    def _receive(self, request: Request) -> None:
        if isinstance(request, Submit | Embed | Render):
            with self._lock:
                self._unprepared.add(request.job.id)
            self._arrived.put(_Arrived(request, time.monotonic_ns()))
        elif isinstance(request, Cancel):
            with self._lock:
                self._unprepared.discard(request.job)
                engine = self._engine
            if engine is not None:
                engine.cancel(request.job)
        else:
            raise TypeError("a runner loads one model only")

    def _own_model(self, spec: LoadSpec) -> None:
        """The main thread: load, then run."""
        start_ns = time.monotonic_ns()
        try:
            context, intake, loaded = self._load(spec, start_ns)
        except (LoadError, TemplateError) as error:
            self._outlet.reply(LoadFailed(str(error)))
            sys.stderr.write(f"the model can't be loaded: {error}\n")
            self._outlet.drain(_LAST_WORDS_S)
            self._exit(EXIT_LOAD_FAILED)
            return
        outlet = self._outlet
        engine = Embedder(context, outlet.send) if spec.embedding else Engine(context, outlet.send, outlet.reply)
        self._engine = engine
        threading.Thread(target=self._guarded, args=(self._prepare_jobs, intake), name="intake", daemon=True).start()
        gc.collect()
        gc.freeze()
        self._outlet.reply(loaded)
        engine.run()

    def _load(self, spec: LoadSpec, start_ns: int) -> tuple[Context, Intake, Loaded]:
        log = LlamaLog()
        model = Model(spec, log, lambda fraction: self._outlet.reply(LoadProgress(fraction)))
        context = Context(model, spec, log)
        template = load_template(spec.template, model.chat_template(), model.vocab)
        context.warm_up()
        loaded = Loaded(
            load_ns=time.monotonic_ns() - start_ns,
            context_tokens=context.context_tokens,
            train_context_tokens=model.train_context_tokens,
            embedding_length=model.embedding_length,
            allocated=model.allocated(),
            supports_tools=template.supports_tools,
            supports_thinking=template.supports_thinking,
            supports_infill=template.supports_infill or model.vocab.can_infill,
        )
        return context, Intake(model, template, context_tokens=context.context_tokens), loaded

    def _prepare_jobs(self, intake: Intake) -> None:
        """The intake thread: requests in, tickets to the engine."""
        while True:
            arrived = self._arrived.get()
            job = arrived.request.job.id
            try:
                self._prepare(intake, arrived)
            except JobError as error:
                if self._claim(job):
                    self._outlet.send([Failed(job=job, kind=error.kind, message=error.message)])

    def _prepare(self, intake: Intake, arrived: _Arrived) -> None:
        request, engine = arrived.request, self._engine
        if isinstance(request, Render):
            rendered = intake.render(request.job)
            if self._claim(request.job.id):
                self._outlet.send([rendered])
        elif isinstance(request, Embed):
            if not isinstance(engine, Embedder):
                raise JobError("unsupported", "this runner was loaded to generate text, not to embed")
            embedding = intake.prepare_embedding(request.job)
            self._hand_over(request.job.id, partial(engine.submit, embedding))
        else:
            if not isinstance(engine, Engine):
                raise JobError("unsupported", "this model was loaded to embed, not to generate text")
            ticket = intake.prepare(request.job, received_ns=arrived.received_ns)
            self._hand_over(request.job.id, partial(engine.submit, ticket))

    def _claim(self, job: str) -> bool:
        """Whether the job is still wanted; says so once."""
        with self._lock:
            wanted = job in self._unprepared
            self._unprepared.discard(job)
            return wanted

    def _hand_over(self, job: str, submit: Callable[[], None]) -> None:
        """Give a job to the engine unless it was cancelled meanwhile."""
        with self._lock:  # a cancel that comes now must find it there
            if job in self._unprepared:
                self._unprepared.discard(job)
                submit()

    def _guarded(self, target: Callable[..., None], *arguments: object) -> None:
        """Run a thread's function; whatever escapes it ends the process, with the reason as the last line."""
        try:
            target(*arguments)
        except DaemonGone:
            self._exit(EXIT_OK)
        except BaseException as error:
            traceback.print_exc()
            sys.stderr.write(f"the runner stops: {type(error).__name__}: {error}\n")
            sys.stderr.flush()
            self._exit(EXIT_FATAL)


def main(fd: int) -> None:
    """Serve the socket with this file descriptor; ends the process."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    Runner(socket.socket(fileno=fd), os._exit).serve()
