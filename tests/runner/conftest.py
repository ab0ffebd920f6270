"""A real runner process at the other end of a socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.jobs import Chat, Delta, Done, Event, Failed, Job, Message, Raw, Sampling
from node.report import PrefixHash
from node.runner.protocol import (
    FRAME_HEADER_BYTES,
    Events,
    Load,
    Loaded,
    LoadProgress,
    LoadSpec,
    Reply,
    Request,
    Standing,
    Submit,
    decode_reply,
    frame,
)
from tests.support.tiny_gguf import write_tiny_llama

ROOT = Path(__file__).resolve().parents[2]
GREEDY = Sampling(temperature=0.0)
LIMIT_S = 30.0


class RunnerProcess:
    """Starts a runner and speaks its protocol."""

    def __init__(self, log: Path) -> None:
        ours, theirs = socket.socketpair()
        self.log = log
        with theirs, log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "node.runner", "--fd", str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno()],
                stderr=stderr,
            )
        ours.settimeout(LIMIT_S)
        self.socket = ours
        self.progress: list[float] = []
        self.standing = Standing()
        self.prefixes: frozenset[PrefixHash] = frozenset()
        self._file = ours.makefile("rb")
        self._ended: dict[str, list[Event]] = {}

    def send(self, *requests: Request) -> None:
        self.socket.sendall(b"".join(map(frame, requests)))

    def load(self, path: Path, **options: object) -> Loaded:
        reply = self.try_load(path, **options)
        assert isinstance(reply, Loaded), reply
        return reply

    def try_load(self, path: Path, **options: object) -> Reply:
        values: dict[str, object] = {"context_tokens": 512, "parallel": 4, "threads": 1, **options}
        self.send(Load(LoadSpec(model_path=str(path), **values)))  # type: ignore[arg-type]
        while isinstance(reply := self.receive(), LoadProgress):
            self.progress.append(reply.fraction)
        return reply

    def receive(self) -> Reply:
        body = self._file.read(int.from_bytes(self._file.read(FRAME_HEADER_BYTES), "little"))
        assert body, self.log.read_text()
        reply: Reply = decode_reply(body)
        return reply

    def events(self) -> tuple[Event, ...]:
        """Those of the next frame; how the engine stands by then is kept."""
        while isinstance(reply := self.receive(), Standing):
            self.standing = reply
            self.prefixes = self.prefixes if reply.prefixes is None else reply.prefixes
        assert isinstance(reply, Events)
        return reply.events

    def wait(self, *jobs: str) -> list[list[Event]]:
        """Each job's events once all have ended."""
        while not all(j in self._ended and not isinstance(self._ended[j][-1], Delta) for j in jobs):
            for event in self.events():
                self._ended.setdefault(event.job, []).append(event)
        return [self._ended.pop(j) for j in jobs]

    def ask(self, request: Request) -> Event:
        """A request with one answer."""
        self.send(request)
        (event,) = self.events()
        return event

    def generate(self, job: Job) -> tuple[str, Done | Failed]:
        self.send(Submit(job))
        *deltas, end = self.wait(job.id)[0]
        assert isinstance(end, Done | Failed)
        return "".join(d.text for d in deltas if isinstance(d, Delta)), end

    def wait_for_exit(self) -> int:
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        self._file.close()
        self.socket.close()
        try:
            self.process.wait(5)
        finally:
            self.process.kill()
            self.process.wait()


def raw(job: str, prompt: str | tuple[int, ...] = "once upon a time", **options: object) -> Job:
    values: dict[str, object] = {"sampling": GREEDY, "max_tokens": 8, **options}
    return Job(id=job, prompt=Raw(prompt=prompt), **values)  # type: ignore[arg-type]


def chat(job: str, *texts: str, **options: object) -> Job:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(texts))
    values: dict[str, object] = {"sampling": GREEDY, "max_tokens": 8, **options}
    return Job(id=job, prompt=Chat(messages=messages), **values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny(models: Path) -> Path:
    return write_tiny_llama(models / "tiny.gguf", heads=2, context=4096)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], RunnerProcess]]:
    runners: list[RunnerProcess] = []

    def start_runner() -> RunnerProcess:
        runners.append(RunnerProcess(tmp_path / f"runner{len(runners)}.log"))
        return runners[-1]

    yield start_runner
    for runner in runners:
        runner.close()


@pytest.fixture(scope="module")
def runner(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunnerProcess]:
    """One runner with the tiny model, shared by the tests of a module."""
    process = RunnerProcess(tmp_path_factory.mktemp("shared") / "runner.log")
    process.load(tiny)
    yield process
    process.close()
