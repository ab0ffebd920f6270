"""The supervisor over a fake runner that is a real process; see fake_runner.py for what prompts do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from node.devices import Device, Machine, Ram
from node.errors import Closing, DoesNotFit, JobFailed, LoadFailure, QueueFull, RunnerLost, SlowReader
from node.jobs import Delta, Done, EmbedJob, Event, Job, Raw
from node.settings import Settings
from node.supervisor import LoadOptions, Supervisor
from registry import Digest, GgufFacts, Model, ModelName, TensorFact

COMMAND = (sys.executable, str(Path(__file__).with_name("fake_runner.py")))
GIB = 1 << 30
NO_GPU = Machine(ram=Ram(16 * GIB, 8 * GIB))
ANY = LoadOptions()
Make = Callable[..., Model]


class KnownMachine:
    """A machine of the test's choice, minus what the loaded models take of its RAM."""

    def __init__(self, machine: Machine) -> None:
        self.now = machine

    async def machine(self, *, refresh: bool) -> Machine:
        return self.now


def facts_of(weight_bytes: int) -> GgufFacts:
    return GgufFacts(
        architecture="llama", kind="model", name="", parameter_count=1, file_type="F16", file_size_bytes=weight_bytes,
        context_length=8192, embedding_length=8, block_count=2, head_counts=(1, 1), kv_head_counts=(1, 1), key_length=8,
        value_length=8, feed_forward_lengths=(16, 16), vocab_size=32, expert_count=0, expert_used_count=0,
        sliding_window=None, recurrent=None, rope_dimension_count=8, rope_freq_base=1e4, rope_scaling="", pooling=None,
        causal=True, chat_template=None, tokenizer_model="gpt2", bos_token_id=None, eos_token_id=None,
        eot_token_id=None, fill_in_middle=False, metadata={}, arrays={},
        tensors=(TensorFact("blk.0.w", (8, 4), "F16", weight_bytes // 2),
                 TensorFact("blk.1.w", (8, 4), "F16", weight_bytes // 2)),
    )  # fmt: skip


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def model(name: str, *, size: int = 1 << 20, **behaviour: Any) -> Model:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"bytes": size, **behaviour}))
        return cast(
            Model,
            SimpleNamespace(
                name=ModelName.parse(name), digest=Digest.of(name.encode()), weights_digest=Digest.of(name.encode()),
                weights=path, adapters=(), template=None, facts=lambda: facts_of(size),
            ),
        )  # fmt: skip

    return model


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Supervisor]]:
    started: list[Supervisor] = []

    def supervisor(
        machine: Machine = NO_GPU, *, busy_limit_s: float = 5.0, hang_limit_s: float = 30.0, **settings: Any
    ) -> Supervisor:
        chosen = Settings(models_dir=tmp_path, state_dir=tmp_path, **settings)
        limits = {"busy_limit_s": busy_limit_s, "hang_limit_s": hang_limit_s}
        started.append(Supervisor(chosen, KnownMachine(machine), command=COMMAND, **limits))
        return started[-1]

    yield supervisor
    for each in started:
        await each.close()
    assert not [child for child in psutil.Process().children(recursive=True) if "fake_runner" in str(child.cmdline())]


def job(prompt: str, name: str = "") -> Job:
    return Job(id=name or f"{prompt}-{time.monotonic_ns()}", prompt=Raw(prompt=prompt))


async def ask(
    node: Supervisor, model: Model, prompt: str, options: LoadOptions = ANY, keep: float | None = None
) -> str:
    """Run a job to its end and return its text."""
    text = ""
    async with aclosing(node.run(model, job(prompt), options, keep)) as events:
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
            else:
                assert isinstance(event, Done)
    return text


def notes(model: Model, word: str) -> list[str]:
    log = Path(f"{model.weights}.log")
    return [line for line in log.read_text().splitlines() if line.startswith(word)] if log.exists() else []


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.01)


async def first(events: Any) -> Event:
    return cast(Event, await anext(events))


def names(node: Supervisor) -> list[str]:
    return [loaded.name.model for loaded in node.loaded()]


async def refused(awaitable: Awaitable[Any], kind: type[Exception]) -> Exception:
    with pytest.raises(kind) as caught:
        await awaitable
    return caught.value


async def test_a_job_streams_and_the_model_stays_for_its_keep_alive(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    assert await ask(node, model, "count 3") == "0 1 2 "
    (loaded,) = node.loaded()
    assert (loaded.name, loaded.context_tokens, loaded.active, loaded.queued) == (model.name, 4096, 0, 0)
    assert loaded.size_bytes == 1 << 20
    assert loaded.expires_at is not None
    assert 290 < loaded.expires_at.timestamp() - time.time() <= 300


async def test_one_load_serves_all_who_wait_for_it(start: Any, make: Make) -> None:
    node, model = start(), make("a", load_s=0.2)
    answers = await asyncio.gather(*(ask(node, model, "count 2") for _ in range(20)))
    assert answers == ["0 1 "] * 20
    assert len(notes(model, "start")) == 1


async def test_one_who_leaves_does_not_end_the_load_for_others_but_the_last_does(start: Any, make: Make) -> None:
    node, model = start(), make("a", load_s=0.3)
    leaving, staying = (asyncio.create_task(ask(node, model, "count 1")) for _ in range(2))
    await until(lambda: bool(notes(model, "start")))
    leaving.cancel()
    assert await staying == "0 "
    other = make("b", load_s=30)
    only = asyncio.create_task(ask(node, other, "count 1"))
    await until(lambda: bool(notes(other, "start")))
    pid = int(notes(other, "start")[0].split()[1])
    only.cancel()
    await until(lambda: not psutil.pid_exists(pid))
    assert names(node) == ["a"]


async def test_closing_the_stream_cancels_the_job(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    async with aclosing(node.run(model, job("forever", "j1"), ANY)) as events:
        assert isinstance(await first(events), Delta)
        assert node.loaded()[0].active == 1
    assert node.loaded()[0].active == 0
    await until(lambda: len(notes(model, "cancel")) == 1)


async def test_a_killed_runner_fails_its_jobs_and_the_next_request_reloads(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    streams = [node.run(model, job("forever", name), ANY) for name in ("j1", "j2")]
    for stream in streams:
        await first(stream)
    os.kill(int(notes(model, "start")[0].split()[1]), signal.SIGKILL)
    for stream in streams:
        with pytest.raises(RunnerLost, match=r"runner of model 'a:latest' is gone \(its process was ended by.*SIGKILL"):
            async for _ in stream:
                pass
    assert await ask(node, model, "count 1") == "0 "
    assert len(notes(model, "start")) == 2


async def test_a_runner_that_is_killed_while_idle_is_not_listed(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    await node.load(model, ANY)
    os.kill(int(notes(model, "start")[0].split()[1]), signal.SIGKILL)
    await until(lambda: not node.loaded())


async def test_a_hanging_runner_is_noticed_and_ended(start: Any, make: Make) -> None:
    node, model = start(hang_limit_s=0.4), make("a")
    await refused(ask(node, model, "stall"), RunnerLost)
    assert await ask(node, model, "count 1") == "0 "


async def test_a_silent_job_on_a_runner_that_answers_others_is_no_hang(start: Any, make: Make) -> None:
    node, model = start(hang_limit_s=0.3), make("a")
    mute = asyncio.create_task(ask(node, model, "mute"))
    assert len((await ask(node, model, "count 120")).split()) == 120
    assert not mute.done()
    mute.cancel()


async def test_a_runner_that_breaks_the_protocol_is_given_up(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    assert "nonsense" in str(await refused(ask(node, model, "nonsense"), RunnerLost))


async def test_a_refused_job_says_why_and_harms_nobody(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    error = await refused(ask(node, model, "refuse"), JobFailed)
    assert isinstance(error, JobFailed)
    assert (error.failed.kind, str(error)) == ("bad_request", "not that")
    assert await ask(node, model, "count 1") == "0 "


async def test_a_reader_that_takes_nothing_loses_its_job_and_stalls_nobody(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    slow = node.run(model, job("flood", "slow"), ANY)
    await first(slow)
    assert await ask(node, model, "count 5") == "0 1 2 3 4 "
    await until(lambda: len(notes(model, "cancel")) == 1)
    with pytest.raises(SlowReader):
        async for _ in slow:
            pass


async def test_more_requests_than_the_queue_takes_are_refused_with_a_time_to_return(start: Any, make: Make) -> None:
    node, model = start(max_queue=2, num_parallel=1), make("a")
    await node.load(model, ANY)
    streams = [node.run(model, job("forever", f"j{n}"), ANY) for n in range(3)]
    for stream in streams:
        await first(stream)
    (loaded,) = node.loaded()
    assert (loaded.active, loaded.queued) == (1, 2)
    error = await refused(ask(node, model, "count 1"), QueueFull)
    assert isinstance(error, QueueFull)
    assert 1 <= error.retry_after_s <= 60
    await streams[0].aclose()
    assert await ask(node, model, "count 1") == "0 "
    for stream in streams:
        await stream.aclose()


async def test_keep_alive_zero_unloads_after_the_last_request_and_negative_never(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    await asyncio.gather(*(ask(node, model, "count 2", keep=0) for _ in range(3)))
    await until(lambda: not node.loaded())
    assert len(notes(model, "start")) == 1
    await node.load(model, ANY, -1)
    assert node.loaded()[0].expires_at is None


async def test_a_keep_alive_ends_the_model_and_each_request_starts_it_anew(start: Any, make: Make) -> None:
    node, model = start(keep_alive_s=0.3), make("a")
    for _ in range(3):
        await ask(node, model, "count 30")
        assert names(node) == ["a"]
    await until(lambda: not node.loaded())
    assert len(notes(model, "start")) == 1


async def test_unloading_waits_for_running_requests(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    running = asyncio.create_task(ask(node, model, "count 40"))
    await until(lambda: bool(node.loaded()) and node.loaded()[0].active == 1)
    assert await node.unload(model.name)
    assert names(node) == ["a"]
    assert len((await running).split()) == 40
    await until(lambda: not node.loaded())
    assert not await node.unload(model.name)


async def test_a_larger_context_reloads_after_running_requests_and_a_smaller_one_does_not(
    start: Any, make: Make
) -> None:
    node, model = start(), make("a")
    running = asyncio.create_task(ask(node, model, "count 40"))
    await until(lambda: bool(node.loaded()))
    assert await ask(node, model, "count 1", LoadOptions(num_ctx=1024)) == "0 "
    assert await ask(node, model, "count 1", LoadOptions(num_ctx=8000)) == "0 "
    assert len(running.result().split()) == 40, "the old runner was not ended under its request"
    assert [re.sub(r"start \d+ ", "", line).split()[0] for line in notes(model, "start")] == [
        "context=4096",
        "context=8000",
    ]


async def test_models_that_differ_in_name_only_share_a_runner(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    twin = cast(Model, SimpleNamespace(**{**vars(model), "name": ModelName.parse("b"), "digest": Digest.of(b"b")}))
    await ask(node, model, "count 1")
    await ask(node, twin, "count 1")
    assert len(notes(model, "start")) == 1
    assert await node.unload(twin.name)


async def test_weights_are_found_again_where_the_files_they_were_first_read_from_are_gone(
    start: Any, make: Make, tmp_path: Path
) -> None:
    node, model = start(), make("a")
    copied = tmp_path / "copy.json"
    copied.write_bytes(model.weights.read_bytes())
    copy = cast(Model, SimpleNamespace(**{**vars(model), "name": ModelName.parse("copy"), "weights": copied}))
    await ask(node, copy, "count 1")
    assert await node.unload(copy.name)
    await until(lambda: not node.loaded())
    copied.unlink()
    assert await ask(node, model, "count 1") == "0 "


async def test_only_the_kind_of_runner_that_is_meant_leaves(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    await node.load(model, ANY)
    await node.load(model, ANY, embedding=True)
    node.leave(model.weights_digest, embedding=True)
    await until(lambda: [loaded.embedding for loaded in node.loaded()] == [False])


async def test_embeddings_get_a_runner_of_their_own_kind(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    embedded = await node.embed(model, EmbedJob(id="e", inputs=("x", "y")), ANY)
    assert len(embedded.vectors) == 2
    assert [loaded.embedding for loaded in node.loaded()] == [True]
    assert (await node.render(model, job("hello"), ANY)).text == "hello"


async def test_the_least_recently_used_model_makes_room_for_another(start: Any, make: Make) -> None:
    node = start(max_loaded_models=2)
    for name in ("a", "b"):
        await node.load(make(name), ANY)
    await ask(node, make("a"), "count 1")
    await node.load(make("c"), ANY)
    assert sorted(names(node)) == ["a", "c"]


async def test_a_model_that_is_kept_makes_no_room_until_it_is_no_longer(start: Any, make: Make) -> None:
    node, kept = start(max_loaded_models=1), make("a")
    node.keep(frozenset({(kept.weights_digest, False)}))
    for model in (kept, make("b"), make("c")):
        await node.load(model, ANY)
    assert sorted(names(node)) == ["a", "c"]
    node.keep(frozenset())
    await node.load(make("d"), ANY)
    assert names(node) == ["d"]


async def test_a_model_in_use_is_never_evicted_but_waited_for(start: Any, make: Make) -> None:
    node = start(max_loaded_models=1)
    running = asyncio.create_task(ask(node, make("a"), "count 40"))
    await until(lambda: bool(node.loaded()) and node.loaded()[0].active == 1)
    await node.load(make("b"), ANY)
    assert len(running.result().split()) == 40
    assert names(node) == ["b"]


async def test_requests_for_a_model_that_has_to_go_wait_behind_the_one_that_needs_the_room(
    start: Any, make: Make
) -> None:
    node, busy, other = start(max_loaded_models=1), make("a"), make("b")
    running = asyncio.create_task(ask(node, busy, "count 40"))
    await until(lambda: bool(node.loaded()) and node.loaded()[0].active == 1)
    wanted = asyncio.create_task(ask(node, other, "count 1"))
    await asyncio.sleep(0.05)
    assert await ask(node, busy, "count 1") == "0 "
    assert wanted.done()
    assert running.done()
    assert [len(notes(model, "start")) for model in (busy, other)] == [2, 1]


async def test_more_models_than_have_room_take_turns_until_all_requests_are_answered(start: Any, make: Make) -> None:
    node, models = start(max_loaded_models=1), [make(name) for name in "abc"]
    answers = await asyncio.gather(*(ask(node, model, "count 2") for _ in range(4) for model in models))
    assert answers == ["0 1 "] * 12


async def test_waiting_for_a_model_in_use_ends_and_leaves_it_usable(start: Any, make: Make) -> None:
    node = start(max_loaded_models=1, busy_limit_s=0.2)
    model = make("a")
    async with aclosing(node.run(model, job("forever"), ANY)) as events:
        await first(events)
        await refused(node.load(make("b"), ANY), QueueFull)
        assert await ask(node, model, "count 1") == "0 "
    assert len(notes(model, "start")) == 1


async def test_what_can_never_fit_evicts_nothing(start: Any, make: Make) -> None:
    node = start()
    await node.load(make("small"), ANY)
    error = await refused(node.load(make("huge", size=100 * GIB), ANY), DoesNotFit)
    assert isinstance(error, DoesNotFit)
    assert error.needed_bytes > 100 * GIB
    assert str(error).startswith("model 'huge:latest' requires more system memory (100.0 GiB) than is available (8.0")
    assert names(node) == ["small"]


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        ({"fail": "no such tensor"}, "no such tensor"),
        ({"die_loading": True}, r"failed while loading: its process ended with status 9 \(last words\)"),
        ({"silent_loading": True}, "made no progress for 0 s"),
    ],
)
async def test_a_load_that_fails_tells_all_who_wait_and_is_tried_anew_by_the_next(
    start: Any, make: Make, behaviour: dict[str, Any], text: str
) -> None:
    node, model = start(load_timeout_s=0.4), make("a", **behaviour)
    errors = await asyncio.gather(*(node.load(model, ANY) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [LoadFailure] * 3
    assert re.search(text, str(errors[0]))
    assert len(notes(model, "start")) == 1
    make("a")
    assert await ask(node, model, "count 1") == "0 "


async def test_a_load_that_fails_on_the_gpu_is_tried_with_fewer_layers(start: Any, make: Make) -> None:
    machine = Machine(ram=NO_GPU.ram, gpus=(Device(name="GPU0", total_bytes=8 * GIB, free_bytes=8 * GIB),))
    node, model = start(machine), make("a", fail_above_layers=0)
    loaded = await node.load(model, ANY)
    assert [line.split("layers=")[1] for line in notes(model, "start")] == ["3", "1", "0"]
    assert loaded.vram_bytes == 0
    fits = make("b")
    assert (await node.load(fits, ANY)).vram_bytes == 30


async def test_closing_ends_every_runner_and_refuses_more_work(start: Any, make: Make) -> None:
    node, other = start(), make("b", load_s=30)
    running = asyncio.create_task(ask(node, make("a"), "forever"))
    loading = asyncio.create_task(ask(node, other, "count 1"))
    await until(lambda: bool(notes(other, "start")) and bool(node.loaded()))
    await node.close()
    await refused(running, RunnerLost)
    await refused(loading, Closing)
    await refused(node.load(make("a"), ANY), Closing)
    assert node.loaded() == []


async def test_a_runner_that_will_not_end_is_killed(start: Any, make: Make, monkeypatch: Any) -> None:
    monkeypatch.setattr("node.supervisor.process.EXIT_GRACE_S", 0.2)
    monkeypatch.setattr("node.supervisor.process.TERM_GRACE_S", 0.2)
    node, model = start(), make("a")
    await node.load(model, ANY)
    pid = int(notes(model, "start")[0].split()[1])
    os.kill(pid, signal.SIGSTOP)
    await node.close()
    assert not psutil.pid_exists(pid)


async def test_two_hundred_requests_at_once_are_all_answered(start: Any, make: Make) -> None:
    node, model = start(), make("a")
    answers = await asyncio.gather(*(ask(node, model, "count 3") for _ in range(200)))
    assert answers == ["0 1 2 "] * 200


async def test_loads_and_what_ends_them_are_counted(start: Any, make: Make) -> None:
    node = start(max_loaded_models=1, load_timeout_s=5)
    count = node._telemetry.metrics.registry.get_sample_value
    for name in ("a", "b", "c"):
        await node.load(make(name), ANY)
    pid = int(notes(make("c"), "start")[0].split()[1])
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not node.loaded())
    await ask(node, make("d"), "count 1", keep=0)
    await until(lambda: not node.loaded())
    with pytest.raises(DoesNotFit):
        await node.load(make("e", size=1 << 50), ANY)
    for name in ("a", "b", "c", "d"):
        assert count("ayni_loads_total", {"model": f"{name}:latest"}) == 1
        assert count("ayni_load_duration_seconds_count", {"model": f"{name}:latest"}) == 1
    for name, reason in (("a", "room"), ("b", "room"), ("c", "lost"), ("d", "idle")):
        assert count("ayni_evictions_total", {"model": f"{name}:latest", "reason": reason}) == 1
    assert count("ayni_load_failures_total", {"model": "e:latest", "reason": "DoesNotFit"}) == 1
    assert count("ayni_output_tokens_total", {"model": "d:latest"}) == 1
