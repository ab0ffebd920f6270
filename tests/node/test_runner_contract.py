"""What the supervisor relies on in a runner: one suite over the real one, with a tiny model, and the fake one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import uvloop

from node.errors import JobFailed, LoadFailure, RunnerLost
from node.jobs import Delta, Done, EmbedJob, Job, Raw, Sampling
from node.runner.protocol import Cancel, LoadSpec
from node.settings import Settings
from node.supervisor import LoadOptions, Supervisor
from node.supervisor.runner import Runner
from registry import Digest, Model, ModelName, read_gguf_facts
from tests.support.tiny_gguf import write_tiny_llama

FAKE = (sys.executable, str(Path(__file__).with_name("fake_runner.py")))


@pytest.fixture(scope="module", params=["real", "fake"])
def kind(request: Any) -> str:
    return cast(str, request.param)


@pytest.fixture(scope="module")
def path(kind: str, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("contract")
    if kind == "real":
        return write_tiny_llama(folder / "tiny.gguf", context=4096)
    (folder / "tiny.json").write_text("{}")
    return cast(Path, folder / "tiny.json")


def command_of(kind: str) -> tuple[str, ...] | None:
    return FAKE if kind == "fake" else None


@pytest.fixture
async def runner(kind: str, path: Path) -> AsyncIterator[Runner]:
    spec = LoadSpec(model_path=str(path), context_tokens=1024, parallel=4, threads=1)
    runner, loaded = await Runner.start("tiny", spec, stall_limit_s=30, command=command_of(kind))
    assert loaded.context_tokens == 1024
    assert sum(device.model_bytes for device in loaded.allocated) > 0
    yield runner
    await runner.stop()
    assert not psutil.pid_exists(runner.pid)


def job(name: str, *, tokens: int, kind: str) -> Job:
    words = f"count {tokens}" if kind == "fake" else "hello"
    return Job(id=name, prompt=Raw(prompt=words), max_tokens=tokens, sampling=Sampling(seed=1))


async def tokens_of(runner: Runner, job: Job) -> list[int]:
    tokens: list[int] = []
    async with aclosing(runner.run(job)) as events:
        async for event in events:
            assert event.job == job.id
            if isinstance(event, Delta):
                tokens += event.tokens
            else:
                assert isinstance(event, Done)
                assert event.usage.output_tokens == len(tokens)
    return tokens


async def test_jobs_run_side_by_side_each_to_its_own_end(runner: Runner, kind: str) -> None:
    lengths = [1, 5, 9, 20, 3, 7]
    answers = await asyncio.gather(*(tokens_of(runner, job(f"j{n}", tokens=n, kind=kind)) for n in lengths))
    # A model may end its answer early; it never goes on for longer.
    assert all(len(answer) <= length for answer, length in zip(answers, lengths, strict=True))
    assert sum(map(len, answers)) > 6


async def test_a_cancelled_job_leaves_the_others_and_its_name_can_be_used_again(runner: Runner, kind: str) -> None:
    other = asyncio.create_task(tokens_of(runner, job("other", tokens=30, kind=kind)))
    async with aclosing(runner.run(job("gone", tokens=900, kind=kind))) as events:
        await anext(events)
    assert len(await tokens_of(runner, job("gone", tokens=2, kind=kind))) <= 2
    assert len(await other) <= 30


async def test_a_prompt_is_rendered_without_running_it(runner: Runner) -> None:
    rendered = await runner.render(Job(id="r", prompt=Raw(prompt="abc")))
    assert rendered.text.endswith("abc")
    assert rendered.prompt_tokens >= 1


async def test_a_job_that_can_not_be_done_fails_alone(runner: Runner, kind: str) -> None:
    bad = Job(id="bad", prompt=Raw(prompt="refuse" if kind == "fake" else "x"), output_format="gbnf:root ::= (")
    with pytest.raises(JobFailed) as caught:
        await tokens_of(runner, bad)
    assert caught.value.failed.message
    assert await tokens_of(runner, job("good", tokens=2, kind=kind))


async def test_a_killed_runner_ends_its_streams_with_a_clear_text(runner: Runner, kind: str) -> None:
    endless = Job(id="e", prompt=Raw(prompt="forever" if kind == "fake" else "hello"), max_tokens=100_000)
    async with aclosing(runner.run(endless)) as events:
        await anext(events)
        os.kill(runner.pid, signal.SIGKILL)
        with pytest.raises(RunnerLost, match=r"SIGKILL\); please try again"):
            async for _ in events:
                pass
    assert "SIGKILL" in await runner.lost


async def test_a_runner_ends_when_its_socket_closes_even_in_the_middle_of_a_job(runner: Runner, kind: str) -> None:
    endless = Job(id="e", prompt=Raw(prompt="forever" if kind == "fake" else "hello"), max_tokens=100_000)
    async with aclosing(runner.run(endless)) as events:
        await anext(events)
        async with asyncio.timeout(3):
            await runner.stop()


async def test_a_model_that_can_not_be_loaded_says_why(kind: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_text(json.dumps({"fail": "can't be loaded: it is broken"}))
    with pytest.raises(LoadFailure, match="can't be loaded: "):
        await Runner.start(
            "broken", LoadSpec(model_path=str(broken), context_tokens=64), stall_limit_s=20, command=command_of(kind)
        )


async def test_the_supervisor_serves_a_model_end_to_end(kind: str, tmp_path: Path) -> None:
    """The real runner only needs what the registry and this machine say."""
    if kind == "fake":
        pytest.skip("test_supervisor.py does that")
    tiny = write_tiny_llama(tmp_path / "tiny.gguf", context=2048)
    model = cast(
        Model,
        SimpleNamespace(
            name=ModelName.parse("tiny"), digest=Digest.of(b"tiny"), weights_digest=Digest.of(b"tiny"),
            weights=tiny, adapters=(), template=None, facts=lambda: read_gguf_facts(tiny),
        ),
    )  # fmt: skip
    node = Supervisor(Settings(models_dir=tmp_path, state_dir=tmp_path))
    try:
        loaded = await node.load(model, LoadOptions(num_ctx=256))
        assert (loaded.context_tokens, loaded.vram_bytes) == (256, 0)
        text = ""
        async with aclosing(node.run(model, job("a", tokens=8, kind=kind), LoadOptions(num_ctx=256))) as events:
            async for event in events:
                text += event.text if isinstance(event, Delta) else ""
        assert text
        embedded = await node.embed(model, EmbedJob(id="e", inputs=("hello", "you")), LoadOptions())
        assert [len(vector) for vector in embedded.vectors] == [4 * 64] * 2
        assert sorted(each.embedding for each in node.loaded()) == [False, True]
        pids = [child.pid for child in psutil.Process().children() if "node.runner" in child.cmdline()]
        assert len(pids) == 2
    finally:
        await node.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_request_to_a_runner_whose_end_is_not_noticed_yet_is_lost_with_it(kind: str, path: Path) -> None:
    async def ask() -> None:
        spec = LoadSpec(model_path=str(path), context_tokens=1024, parallel=4, threads=1)
        runner, _ = await Runner.start("tiny", spec, stall_limit_s=30, command=command_of(kind))
        # Its parent learns of its end late, as on a busy machine.
        runner._process.ending = asyncio.Event().wait  # type: ignore[assignment,method-assign]
        os.kill(runner.pid, signal.SIGKILL)
        while not runner._writer.transport.is_closing():  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
            runner._post(Cancel("0"))
        assert not runner.is_lost
        with pytest.raises(RunnerLost):
            await tokens_of(runner, job("late", tokens=5, kind=kind))
        await runner.stop()

    # Where asyncio's own loop only complains, the daemon's raises.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(asyncio.wait_for(ask(), 30))
