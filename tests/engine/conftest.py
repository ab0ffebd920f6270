"""Tiny models in memory, and engines over them whose events a test can read."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from node.engine.binding import Context, Model
from node.engine.generation import Ticket
from node.engine.llama_log import LlamaLog
from node.engine.loop import Engine
from node.jobs import Delta, Done, Event, Failed, Sampling
from node.runner.protocol import LoadSpec, Standing
from tests.support.tiny_gguf import write_tiny_llama

GREEDY = Sampling(temperature=0.0)
LIMIT_S = 20.0


class Driver:
    """An engine in its own thread, and what it sent."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.vocab = context.model.vocab
        self.steps: list[list[Event]] = []
        self._mail: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._of: dict[str, list[Event]] = {}
        self.standings: list[Standing] = []
        self.engine = Engine(context, self._receive, self.standings.append)
        self._thread = threading.Thread(target=self.engine.run, daemon=True)
        self._thread.start()

    def _receive(self, events: Sequence[Event]) -> None:
        self.steps.append(list(events))
        for event in events:
            self._mail.put(event)

    def submit(self, job: str, prompt: str | list[int], **options: object) -> None:
        tokens = self.tokens(prompt) if isinstance(prompt, str) else prompt
        values: dict[str, object] = {"sampling": GREEDY, "max_tokens": 16, **options}
        self.engine.submit(Ticket(job=job, prompt=tokens, received_ns=time.monotonic_ns(), **values))  # type: ignore[arg-type]

    def tokens(self, text: str) -> list[int]:
        return self.vocab.tokenize(text, add_special=True, parse_special=True)

    def next_event(self) -> Event:
        event = self._mail.get(timeout=LIMIT_S)
        self._of.setdefault(event.job, []).append(event)
        return event

    def wait(self, *jobs: str) -> list[list[Event]]:
        """Each job's events, once all of them have ended."""
        while not all(any(isinstance(e, Done | Failed) for e in self._of.get(j, [])) for j in jobs):
            self.next_event()
        return [self._of.pop(j) for j in jobs]

    def run(self, prompt: str | list[int], **options: object) -> Result:
        self.submit("only", prompt, **options)
        return Result(self.wait("only")[0])

    def close(self) -> None:
        self.engine.stop()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


class Result:
    """A job's events, put together."""

    def __init__(self, events: list[Event]) -> None:
        self.deltas = [e for e in events if isinstance(e, Delta)]
        self.text = "".join(d.text for d in self.deltas)
        self.tokens = [t for d in self.deltas for t in d.tokens]
        self.end = events[-1]

    @property
    def done(self) -> Done:
        assert isinstance(self.end, Done), self.end
        return self.end

    @property
    def failed(self) -> Failed:
        assert isinstance(self.end, Failed), self.end
        return self.end


@pytest.fixture(scope="session")
def llama_log() -> LlamaLog:
    return LlamaLog()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny(models: Path) -> Path:
    return write_tiny_llama(models / "tiny.gguf", heads=2, context=4096)


LoadContext = Callable[..., Context]


@pytest.fixture(scope="session")
def load_context(llama_log: LlamaLog) -> LoadContext:
    """Load a model and make a context, as a runner does; the options are those of LoadSpec."""
    loaded: dict[Path, Model] = {}

    def load(path: Path, **options: object) -> Context:
        values: dict[str, object] = {"context_tokens": 256, "parallel": 4, "threads": 1, **options}
        spec = LoadSpec(model_path=str(path), **values)  # type: ignore[arg-type]
        if spec.adapters:
            return Context(Model(spec, llama_log, lambda _: None), spec, llama_log)
        if path not in loaded:
            loaded[path] = Model(spec, llama_log, lambda _: None)
        return Context(loaded[path], spec, llama_log)

    return load


@pytest.fixture
def start(load_context: LoadContext, tiny: Path) -> Iterator[Callable[..., Driver]]:
    """Start an engine over the tiny model, or over `path`."""
    drivers: list[Driver] = []

    def start_engine(path: Path = tiny, **options: object) -> Driver:
        drivers.append(Driver(load_context(path, **options)))
        return drivers[-1]

    yield start_engine
    for driver in drivers:
        driver.close()
