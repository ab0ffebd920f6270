from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from node.fingerprint import fingerprint
from node.jobs import Chat, Delta, Done, Embedded, EmbedJob, Failed, Infill, Job, Message, Raw, Rendered, Sampling
from node.runner.process import EXIT_FATAL, EXIT_LOAD_FAILED, EXIT_OK
from node.runner.protocol import Cancel, Embed, LoadFailed, Render, Submit
from tests.runner.conftest import GREEDY, RunnerProcess, chat, raw
from tests.support.tiny_gguf import write_tiny_bert, write_tiny_llama

Start = Callable[[], RunnerProcess]


def test_loading_reports_progress_and_what_came_of_it(start: Start, tiny: Path) -> None:
    runner = start()
    loaded = runner.load(tiny, context_tokens=300, parallel=2)
    assert runner.progress[-1] == 1.0
    assert (loaded.context_tokens, loaded.train_context_tokens, loaded.embedding_length) == (300, 4096, 64)
    assert [d.device for d in loaded.allocated] == ["CPU"]
    assert loaded.load_ns > 0


def test_many_jobs_stream_at_once(runner: RunnerProcess) -> None:
    jobs = [f"j{i}" for i in range(6)]
    runner.send(*(Submit(raw(j, f"tale {j}", max_tokens=12)) for j in jobs))
    for events in runner.wait(*jobs):
        *deltas, done = events
        assert isinstance(done, Done)
        assert len([t for d in deltas if isinstance(d, Delta) for t in d.tokens]) == 12
        assert done.usage.queue_ns > 0


def test_a_chat_is_rendered_with_the_models_template(runner: RunnerProcess) -> None:
    job = chat("c", "hello", "hi", "bye")
    rendered = runner.ask(Render(job))
    assert isinstance(rendered, Rendered)
    assert rendered.text == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>\n"
        "<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n"
    )
    _, done = runner.generate(job)
    assert isinstance(done, Done)
    assert done.usage.prompt_tokens == rendered.prompt_tokens == len(done.context) - done.usage.output_tokens


def test_the_second_turn_finds_the_first_one_cached(runner: RunnerProcess) -> None:
    text, first = runner.generate(chat("t1", "tell me a long and winding story about llamas " * 4))
    assert isinstance(first, Done)
    _, second = runner.generate(chat("t2", "tell me a long and winding story about llamas " * 4, text, "go on"))
    assert isinstance(second, Done)
    assert second.usage.cached_tokens >= first.usage.prompt_tokens - 1


def test_the_daemon_is_told_what_is_cached_as_the_next_turn_will_name_it(runner: RunnerProcess) -> None:
    first = chat("t1", "tell me a long and winding story about llamas")
    text, _ = runner.generate(first)
    next_turn = chat("t2", "tell me a long and winding story about llamas", text, "go on")
    known = fingerprint(next_turn.prompt)
    assert [mark in runner.prefixes for mark in known.hashes] == [True, True, False]
    assert runner.standing.backlog_tokens == 0
    runner.generate(next_turn)
    assert runner.prefixes.issuperset(known.hashes)


def test_context_tokens_stand_before_the_prompt(runner: RunnerProcess) -> None:
    _, first = runner.generate(raw("r1"))
    assert isinstance(first, Done)
    prompt = Chat(messages=(Message(role="user", content="more"),), context=first.context)
    _, second = runner.generate(Job(id="r2", prompt=prompt, sampling=GREEDY, max_tokens=2))
    assert isinstance(second, Done)
    assert second.context[: len(first.context)] == first.context


def test_a_conversation_too_long_loses_its_oldest_turns(runner: RunnerProcess) -> None:
    long = [f"turn {i} " + "blah " * 60 for i in range(9)]
    rendered = runner.ask(Render(chat("long", *long)))
    assert isinstance(rendered, Rendered)
    assert "turn 0 " not in rendered.text
    assert "turn 8 " in rendered.text
    _, done = runner.generate(chat("long", *long))
    assert isinstance(done, Done)
    _, failed = runner.generate(chat("long", *long, truncate=False))
    assert isinstance(failed, Failed)
    assert failed.kind == "context_exceeded"


def test_a_raw_prompt_too_long_loses_its_middle(runner: RunnerProcess) -> None:
    tokens = tuple(range(10, 500)) * 2
    _, done = runner.generate(raw("raw", tokens, num_keep=5, shift=False, max_tokens=None))
    assert isinstance(done, Done)
    assert done.usage.prompt_tokens == 511
    assert done.context[:511] == (*tokens[:5], *tokens[-506:])
    _, failed = runner.generate(raw("raw", tokens, truncate=False))
    assert isinstance(failed, Failed)
    assert failed.kind == "context_exceeded"


@pytest.mark.parametrize("prompt", ["raw", "chat"])
def test_the_output_has_the_asked_format(runner: RunnerProcess, prompt: str) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    job = (raw if prompt == "raw" else chat)("f", "give me a number", output_format=schema, max_tokens=None)
    text, done = runner.generate(job)
    assert isinstance(done, Done)
    assert json.loads(text)["n"] in (1, 2)


def test_text_is_filled_in_before_a_suffix(runner: RunnerProcess) -> None:
    rendered = runner.ask(Render(Job(id="fim", prompt=Infill(prefix="a = ", suffix=" + 1"))))
    assert isinstance(rendered, Rendered)
    assert rendered.text == "<|fim_prefix|>a = <|fim_suffix|> + 1<|fim_middle|>"


@pytest.mark.parametrize(
    "job", [raw("x", (5, 99_999)), raw("x", resume=(-1,)), raw("x", output_format="gbnf:nonsense")]
)
def test_a_job_that_makes_no_sense_fails_alone(runner: RunnerProcess, job: Job) -> None:
    runner.send(Submit(raw("good", max_tokens=30)))
    _, failed = runner.generate(job)
    assert isinstance(failed, Failed)
    assert failed.kind == "bad_request"
    assert isinstance(runner.wait("good")[0][-1], Done)


def test_a_runner_for_text_does_not_embed(runner: RunnerProcess) -> None:
    failed = runner.ask(Embed(EmbedJob(id="e", inputs=("text",))))
    assert isinstance(failed, Failed)
    assert failed.kind == "unsupported"


def test_embedding(start: Start, models: Path) -> None:
    runner = start()
    loaded = runner.load(write_tiny_bert(models / "bert.gguf"), embedding=True, context_tokens=64)
    embedded = runner.ask(Embed(EmbedJob(id="e", inputs=("hello", "hello", "x" * 300), dimensions=8)))
    assert isinstance(embedded, Embedded)
    vectors = np.array([np.frombuffer(v, "<f4") for v in embedded.vectors])
    assert vectors.shape == (3, 8)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert embedded.prompt_tokens == 7 + 7 + loaded.context_tokens
    failed = runner.ask(Embed(EmbedJob(id="e", inputs=("x" * 300,), truncate=False)))
    assert isinstance(failed, Failed)
    assert failed.kind == "context_exceeded"
    _, refused = runner.generate(raw("g"))
    assert isinstance(refused, Failed)
    assert refused.kind == "unsupported"


def test_a_cancelled_job_is_not_heard_of_again(start: Start, tiny: Path) -> None:
    runner = start()
    runner.load(tiny, parallel=1, context_tokens=4096)
    runner.send(Submit(raw("endless", max_tokens=None)))
    runner.events()
    runner.send(Submit(raw("queued")), Cancel("queued"), Cancel("endless"), Cancel("unheard"), Submit(raw("next")))
    seen: list[str] = []
    while not (isinstance(events := runner.events(), tuple) and any(isinstance(e, Done) for e in events)):
        seen += [e.job for e in events]
    assert {e.job for e in events} == {"next"}
    assert "queued" not in seen


def test_cancelling_a_long_prompt_does_not_wait_for_it(start: Start, models: Path) -> None:
    runner = start()
    slow = write_tiny_llama(models / "slow.gguf", layers=6, width=256, heads=4, context=8192)
    runner.load(slow, context_tokens=8192, parallel=2, batch_tokens=4096, threads=1)
    prompt = tuple(range(10, 500)) * 9
    runner.generate(raw("warm", prompt[:1000], max_tokens=1))
    start_s = time.monotonic()
    runner.generate(raw("long", prompt[::-1][:4000], max_tokens=1))
    whole_s = time.monotonic() - start_s
    runner.send(Submit(raw("long", tuple(reversed(prompt[:3999])), max_tokens=1)))
    time.sleep(0.1 * whole_s)
    start_s = time.monotonic()
    runner.send(Cancel("long"), Submit(raw("short", "hi", max_tokens=1)))
    assert isinstance(runner.wait("short")[0][-1], Done)
    assert time.monotonic() - start_s < 0.5 * whole_s


def test_a_closed_socket_ends_the_process_whatever_it_does(start: Start, tiny: Path) -> None:
    runner = start()
    runner.load(tiny)
    runner.send(Submit(raw("endless", max_tokens=None)))
    runner.events()
    runner.close()
    assert runner.wait_for_exit() == EXIT_OK


def test_a_socket_closed_while_loading_ends_the_process(start: Start, models: Path) -> None:
    runner = start()
    runner.close()
    assert runner.wait_for_exit() == EXIT_OK


def test_a_killed_runner_closes_its_socket(start: Start, tiny: Path) -> None:
    runner = start()
    runner.load(tiny)
    runner.send(Submit(raw("endless", max_tokens=None)))
    runner.events()
    os.kill(runner.process.pid, signal.SIGKILL)
    assert runner.wait_for_exit() == -signal.SIGKILL
    runner.socket.settimeout(1)
    while runner.socket.recv(1 << 20):
        pass


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("absent.gguf", None, "no model file"), ("bad.gguf", b"not a model", "bad.gguf can't be loaded: ")],
)
def test_what_is_no_model_is_refused_in_words(
    start: Start, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    runner = start()
    reply = runner.try_load(path)
    assert isinstance(reply, LoadFailed)
    assert message in reply.message
    assert runner.wait_for_exit() == EXIT_LOAD_FAILED
    assert message in runner.log.read_text().splitlines()[-1]


def test_nonsense_on_the_socket_ends_the_process_with_a_reason(start: Start) -> None:
    runner = start()
    runner.socket.sendall(b"\xff\xff\xff\xff")
    assert runner.wait_for_exit() == EXIT_FATAL
    assert "the runner stops: FrameTooLong" in runner.log.read_text().splitlines()[-1]


def test_a_daemon_that_does_not_read_stops_the_generation_not_the_memory(start: Start, tiny: Path) -> None:
    import psutil

    runner = start()
    runner.load(tiny, parallel=8, context_tokens=4096)
    endless = Sampling(temperature=0.0, logit_bias=dict.fromkeys(range(6), -1e9))
    jobs = [raw(f"j{i}", f"{i}", max_tokens=20_000, sampling=endless, logprobs=20) for i in range(8)]
    runner.send(*map(Submit, jobs))
    process = psutil.Process(runner.process.pid)
    before = process.memory_info().rss
    idle_since = None
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        used = sum(process.cpu_times()[:2])
        time.sleep(0.3)
        if sum(process.cpu_times()[:2]) - used < 0.03:
            idle_since = time.monotonic()
            break
    assert idle_since, "it goes on generating"
    assert process.memory_info().rss - before < 200 << 20
    assert runner.events()  # and it goes on once somebody reads
    for job in jobs:
        runner.send(Cancel(job.id))
    runner.send(Submit(raw("after")))
    assert isinstance(runner.wait("after")[0][-1], Done)


def test_a_prompt_of_token_ids_is_taken_as_it_is(runner: RunnerProcess) -> None:
    _, done = runner.generate(Job(id="ids", prompt=Raw(prompt=(10, 11, 12)), sampling=GREEDY, max_tokens=1))
    assert isinstance(done, Done)
    assert done.context[:3] == (10, 11, 12)
