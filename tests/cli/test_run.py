from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pexpect
import pytest

from tests.cli.scripted_node import Command, Reply, ScriptedNode

COUNTS = {
    "done": True,
    "total_duration": 1_500_000_000,
    "load_duration": 20_000_000,
    "prompt_eval_count": 12,
    "prompt_eval_duration": 100_000_000,
    "eval_count": 50,
    "eval_duration": 1_000_000_000,
}
SHOWN: dict[str, Any] = {"capabilities": ["completion"], "details": {}, "model_info": {}}


def says(*parts: str, **last: Any) -> Reply:
    return Reply([*({"response": part, "done": False} for part in parts), {"response": "", "done": True} | last])


@pytest.fixture
def demo(with_node: Command, node: ScriptedNode) -> Command:
    node.answers["POST /api/show"] = Reply(SHOWN)
    node.answers["POST /api/generate"] = says("Hello ", "there.")
    return with_node


def test_run_prints_the_answer_and_two_line_ends(demo: Command, node: ScriptedNode) -> None:
    done = demo("run", "demo", "Say", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello there.\n\n", "")
    assert node.asked_of("POST /api/generate") == [{"model": "demo", "prompt": "Say hello"}]


def test_piped_text_stands_before_the_words(demo: Command, node: ScriptedNode) -> None:
    demo("run", "demo", "Sum", "up:", stdin=b"line 1\nline 2\n")
    demo("run", "demo", stdin=b"only \xff this")
    prompts = [body["prompt"] for body in node.asked_of("POST /api/generate")]
    assert prompts == ["line 1\nline 2\n Sum up:", "only \ufffd this"]


def test_half_a_character_in_a_word_reaches_the_node_as_a_question_mark(demo: Command, node: ScriptedNode) -> None:
    demo("run", "demo", "caf\udcc3")
    assert node.asked_of("POST /api/generate")[0]["prompt"] == "caf?"


def test_without_any_prompt_the_model_is_only_loaded(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/generate"] = Reply({"response": "", "done": True, "done_reason": "load"})
    assert demo("run", "demo").stdout == ""
    assert node.asked_of("POST /api/generate")[0]["prompt"] == ""


def test_flags_stand_anywhere_and_reach_the_node(demo: Command, node: ScriptedNode) -> None:
    schema = {"type": "object"}
    demo("run", "--format", json.dumps(schema), "demo", "--think", "why?", "--keepalive", "10m")
    demo("run", "demo", "--format=json", "--think=low", "--keepalive=-1", "--", "--think")
    assert node.asked_of("POST /api/generate") == [
        {"model": "demo", "prompt": "why?", "format": schema, "keep_alive": "10m", "think": True},
        {"model": "demo", "prompt": "--think", "format": "json", "keep_alive": -1, "think": "low"},
    ]


def test_verbose_shows_timings_apart_from_the_answer(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/generate"] = says("Hi", **COUNTS)
    done = demo("run", "demo", "hi", "--verbose")
    assert done.stdout == "Hi\n\n"
    assert done.stderr == (
        "total duration:       1.5s\n"
        "load duration:        20ms\n"
        "prompt eval count:    12 token(s)\n"
        "prompt eval duration: 100ms\n"
        "prompt eval rate:     120.00 tokens/s\n"
        "eval count:           50 token(s)\n"
        "eval duration:        1s\n"
        "eval rate:            50.00 tokens/s\n"
    )


def thinking(demo: Command, node: ScriptedNode, *flags: str) -> str:
    node.answers["POST /api/show"] = Reply(SHOWN | {"capabilities": ["completion", "thinking"]})
    node.answers["POST /api/generate"] = Reply(
        [{"thinking": "Let me "}, {"thinking": "see."}, {"response": "42"}, {"done": True}]
    )
    return demo("run", "demo", "6*7", *flags).stdout


def test_a_model_that_can_think_does_and_its_thinking_is_set_apart(demo: Command, node: ScriptedNode) -> None:
    assert thinking(demo, node) == "Thinking...\nLet me see.\n...done thinking.\n\n42\n\n"
    assert node.asked_of("POST /api/generate")[0]["think"] is True


def test_thinking_can_be_hidden_or_switched_off(demo: Command, node: ScriptedNode) -> None:
    assert thinking(demo, node, "--hidethinking") == "42\n\n"
    thinking(demo, node, "--think=false")
    assert node.asked_of("POST /api/generate")[1]["think"] is False


def test_calls_of_functions_are_named(demo: Command, node: ScriptedNode) -> None:
    call = {"function": {"name": "get_time", "arguments": {"city": "Lima"}}}
    node.answers["POST /api/generate"] = Reply([{"response": "", "tool_calls": [call]}, {"done": True}])
    said = '  Model called a non-existent function \'get_time()\' with arguments: {"city": "Lima"}\n'
    assert demo("run", "demo", "time?").stdout == said + "\n\n"


def test_a_pipe_gets_the_models_text_as_it_is(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/generate"] = says("\x1b[31mred\r\n", "\ud800", "x" * 200)
    assert demo("run", "demo", "hi").stdout == "\x1b[31mred\r\n?" + "x" * 200 + "\n\n"


def test_an_unknown_model_is_said_in_ollamas_words_with_a_way_out(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/show"] = Reply({"error": "model 'x' not found"}, 404)
    done = demo("run", "x", "hi")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == "Error: model 'x' not found"
    assert "ayni list" in done.stderr
    assert "ayni create" in done.stderr


def test_an_error_amid_the_answer_keeps_what_came_before(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/generate"] = Reply([{"response": "Hel"}, {"error": "the runner\nstopped\x1b[2J"}])
    done = demo("run", "demo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (1, "Hel", "Error: the runner stopped[2J\n")


@pytest.mark.parametrize("cut", [True, False])
def test_an_answer_that_ends_too_early_is_an_error(demo: Command, node: ScriptedNode, cut: bool) -> None:
    node.answers["POST /api/generate"] = Reply([{"response": "Hel"}], cut=cut)
    done = demo("run", "demo", "hi")
    assert (done.returncode, done.stdout) == (1, "Hel")
    assert done.stderr.startswith(("Error: lost the connection", "Error: the node closed the connection"))
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_who_leaves_ends_the_command_quietly_and_the_request(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/generate"] = Reply([{"response": "word\n"}] * 1000 + [{"done": True}], pause_s=0.005)
    reader = f"{sys.executable} -m cli run demo hi | head -1"
    done = subprocess.run(
        reader, shell=True, env=demo.environ, capture_output=True, stdin=subprocess.DEVNULL, timeout=30
    )
    assert (done.stdout, done.stderr) == (b"word\n", b"")
    assert node.left_early.wait(5)


def test_ctrl_c_cancels_the_request(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/generate"] = Reply([{"response": "word "}] * 1000 + [{"done": True}], pause_s=0.01)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "run", "demo", "hi"],
        env=demo.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.read(5) == b"word "
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (130, b"\n")
    assert node.left_early.wait(5)


def test_embedding_models_print_the_vector(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/show"] = Reply(SHOWN | {"capabilities": ["embedding"]})
    node.answers["POST /api/embed"] = Reply({"embeddings": [[0.5, -0.25]]})
    assert demo("run", "embedder", "text", "--dimensions", "2", "--truncate=false").stdout == "[0.5,-0.25]\n"
    assert node.asked_of("POST /api/embed") == [
        {"model": "embedder", "input": "text", "truncate": False, "dimensions": 2}
    ]
    done = demo("run", "embedder")
    assert done.stderr.startswith("Error: embedding models require input text.")


def test_words_arrive_as_they_come(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/generate"] = Reply([{"response": "one "}, {"response": "two"}, {"done": True}], pause_s=0.4)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "run", "demo", "hi"],
        env=demo.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 100) == b"one "
    first_s = time.monotonic()
    assert os.read(process.stdout.fileno(), 100) == b"two"
    assert time.monotonic() - first_s > 0.2
    process.communicate(timeout=10)


def test_a_terminal_gets_wrapped_words_and_nothing_to_obey(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/generate"] = says("\x1b[2Jaaaa bbbb ", "cccc dddd\x07")
    child = pexpect.spawn(
        sys.executable, ["-m", "cli", "run", "demo", "hi"],
        env=demo.environ, dimensions=(24, 20), encoding="utf-8", timeout=10,
    )  # fmt: skip
    child.expect(pexpect.EOF)
    child.close()
    shown = child.before or ""
    assert child.exitstatus == 0
    # Fifteen columns are used of twenty: the third word does not fit whole and moves down.
    assert "[2Jaaaa bbbb cc\x1b[2D\x1b[K\r\ncccc dddd\r\n" in shown
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
