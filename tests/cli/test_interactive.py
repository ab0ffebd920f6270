from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pexpect
import pytest

from tests.cli.scripted_node import Command, Reply, ScriptedNode

SHOWN: dict[str, Any] = {
    "capabilities": ["completion"],
    "details": {"family": "llama"},
    "model_info": {},
    "parameters": "temperature 0.5",
    "system": "Be kind.",
    "license": "MIT",
}


def says(*parts: str, pause_s: float = 0.0) -> Reply:
    events = [{"message": {"role": "assistant", "content": part}, "done": False} for part in parts]
    last = {"message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 2, "eval_duration": 10**9}
    return Reply([*events, last], pause_s=pause_s)


class Terminal:
    """`ayni run demo` at a terminal; `said` is what it printed since the last question."""

    def __init__(self, ayni: Command, *flags: str) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "cli", "run", "demo", *flags],
            env=ayni.environ,
            dimensions=(50, 100),
            encoding="utf-8",
            timeout=60,  # only a bound: a busy machine is slow
        )
        self.wait()

    def wait(self) -> str:
        self.child.expect("Send a message")
        return self.child.before or ""

    def ask(self, line: str) -> str:
        self.child.sendline(line)
        self.child.expect_exact(line.split("\n")[-1][-20:])
        self.child.expect("\r\n")
        return self.wait()

    def leave(self, keys: str = "/bye\r") -> int:
        self.child.send(keys)
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus or 0)


@pytest.fixture
def demo(with_node: Command, node: ScriptedNode) -> Command:
    node.answers["POST /api/show"] = Reply(SHOWN)
    node.answers["POST /api/generate"] = Reply([{"response": "", "done": True, "done_reason": "load"}])
    node.answers["POST /api/chat"] = says("Hello ", "there.")
    return with_node


@pytest.fixture
def terminal(demo: Command) -> Iterator[Terminal]:
    opened = Terminal(demo)
    yield opened
    opened.child.close(force=True)


def test_a_conversation_remembers_its_turns_and_ends_with_bye(terminal: Terminal, node: ScriptedNode) -> None:
    assert "Hello there." in terminal.ask("Hi")
    terminal.ask("And now?")
    assert terminal.leave() == 0
    assert node.asked_of("POST /api/generate") == [{"model": "demo", "stream": False}]
    assert node.asked_of("POST /api/chat")[1]["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello there."},
        {"role": "user", "content": "And now?"},
    ]


def test_ctrl_d_leaves(terminal: Terminal) -> None:
    assert terminal.leave("\x04") == 0


def test_ctrl_c_at_the_prompt_says_how_to_leave(terminal: Terminal) -> None:
    terminal.child.send("\x03")
    terminal.child.expect_exact("Use Ctrl + d or /bye to exit.")


def test_ctrl_c_stops_a_reply_and_keeps_what_came_of_it(terminal: Terminal, node: ScriptedNode) -> None:
    node.answers["POST /api/chat"] = says("word ", *["more "] * 500, pause_s=0.02)
    terminal.child.sendline("Go on")
    terminal.child.expect("word more")
    terminal.child.send("\x03")
    terminal.wait()
    assert node.left_early.wait(30)
    node.answers["POST /api/chat"] = says("Yes.")
    assert "Yes." in terminal.ask("Stopped?")
    turns = node.asked_of("POST /api/chat")[1]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"].startswith("word more")


def test_a_block_between_triple_quotes_is_one_message(terminal: Terminal, node: ScriptedNode) -> None:
    terminal.child.sendline('"""one')
    terminal.child.expect_exact("...")
    terminal.child.sendline("two")
    terminal.child.expect_exact("...")
    terminal.child.sendline('three"""')
    assert "Hello there." in terminal.wait()
    assert node.asked_of("POST /api/chat")[0]["messages"] == [{"role": "user", "content": "one\ntwo\nthree"}]


def test_a_pasted_text_is_one_message(terminal: Terminal, node: ScriptedNode) -> None:
    terminal.child.send("\x1b[200~one\ntwo\x1b[201~\r")
    assert "Hello there." in terminal.wait()
    assert node.asked_of("POST /api/chat")[0]["messages"] == [{"role": "user", "content": "one\ntwo"}]


def test_set_changes_what_is_asked_for(terminal: Terminal, node: ScriptedNode) -> None:
    assert "Set parameter 'temperature' to '0.1'" in terminal.ask("/set parameter temperature 0.1")
    assert "Set parameter 'stop' to 'a, b'" in terminal.ask("/set parameter stop a b")
    assert "Couldn't set parameter: unknown parameter 'warmth'" in terminal.ask("/set parameter warmth 1")
    assert "Couldn't set parameter: invalid int value" in terminal.ask("/set parameter seed x")
    assert "Set system message." in terminal.ask("/set system Be brief.")
    assert "Set format to 'json' mode." in terminal.ask("/set format json")
    assert "does not support thinking" in terminal.ask("/set think low")
    terminal.ask("Hi")
    assert node.asked_of("POST /api/chat")[0] == {
        "model": "demo",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "options": {"temperature": 0.1, "stop": ["a", "b"]},
        "format": "json",
        "think": "low",
    }
    for line, said in (
        ("/set noformat", "Disabled format."),
        ("/set nothink", "Set 'nothink' mode."),
        ("/set nowordwrap", "Set 'nowordwrap' mode."),
        ("/set format xml", "Invalid or missing format."),
        ("/set frob", "Unknown command '/set frob'. Type /? for help"),
        ("/set", "/set parameter ..."),
        ("/frob", "Unknown command '/frob'. Type /? for help"),
    ):
        assert said in terminal.ask(line)


def test_verbose_shows_timings(terminal: Terminal) -> None:
    terminal.ask("/set verbose")
    assert "eval rate:            2.00 tokens/s" in terminal.ask("Hi")
    terminal.ask("/set quiet")
    assert "eval rate" not in terminal.ask("Hi")


def test_show_tells_about_the_model(terminal: Terminal) -> None:
    for line, said in (
        ("/show info", "architecture    llama"),
        ("/show license", "MIT"),
        ("/show template", "No prompt template was specified for this model."),
        ("/show system", "Be kind."),
        ("/show parameters", "temperature 0.5"),
        ("/show", "/show modelfile"),
        ("/?", 'Use """ to begin a multi-line message.'),
        ("/? shortcuts", "Ctrl + d"),
    ):
        assert said in terminal.ask(line)


def test_another_model_can_be_loaded_and_the_session_saved(terminal: Terminal, node: ScriptedNode) -> None:
    terminal.ask("Hi")
    node.answers["POST /api/create"] = Reply([{"status": "success"}])
    assert "Created new model 'mine'" in terminal.ask("/save mine")
    assert node.asked_of("POST /api/create") == [
        {
            "model": "mine",
            "from": "demo",
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}],
        }
    ]
    terminal.ask("/load other")
    terminal.ask("Hi again")
    assert node.asked_of("POST /api/chat")[1] == {
        "model": "other",
        "messages": [{"role": "user", "content": "Hi again"}],
    }
    node.answers["POST /api/show"] = Reply({"error": "model 'gone' not found"}, 404)
    assert "Couldn't find model 'gone'" in terminal.ask("/load gone")


def test_an_error_does_not_end_the_conversation(terminal: Terminal, node: ScriptedNode) -> None:
    node.answers["POST /api/chat"] = Reply({"error": "server busy"}, 503)
    assert "Error: server busy" in terminal.ask("Hi")
    node.answers["POST /api/chat"] = says("Now.")
    assert "Now." in terminal.ask("Again")
    assert node.asked_of("POST /api/chat")[1]["messages"] == [{"role": "user", "content": "Again"}]


def test_history_is_private_and_comes_back_and_can_be_off(demo: Command, terminal: Terminal) -> None:
    history = demo.home / ".ayni" / "history"
    terminal.ask("a question to remember")
    terminal.ask("/set nohistory")
    terminal.ask("a secret")
    terminal.leave()
    assert history.stat().st_mode & 0o777 == 0o600
    assert "a question to remember" in history.read_text()
    assert "a secret" not in history.read_text()
    again = Terminal(demo)
    again.child.send("\x1b[A\x1b[A\x1b[A")
    again.child.expect("a question to remember")
    again.leave("\x15\x04")


def test_the_models_own_turns_are_shown_first(demo: Command, node: ScriptedNode) -> None:
    turns = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A llama\x1b[2J."}]
    node.answers["POST /api/show"] = Reply(SHOWN | {"messages": turns})
    child = pexpect.spawn(sys.executable, ["-m", "cli", "run", "demo"], env=demo.environ, encoding="utf-8", timeout=10)
    child.expect("Send a message")
    assert ">>> Who are you?\r\nA llama[2J.\r\n" in (child.before or "")
    child.close(force=True)


def test_thinking_is_dimmed(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/chat"] = Reply(
        [{"message": {"thinking": "Hm."}}, {"message": {"content": "42"}}, {"done": True}]
    )
    opened = Terminal(demo, "--think")
    said = opened.ask("6*7")
    opened.leave()
    assert "\x1b[1;90mThinking...\r\n\x1b[0m\x1b[90mHm.\r\n\x1b[0m\x1b[1;90m...done thinking.\x1b[0m\r\n\r\n42" in said


def test_a_reply_stopped_while_thinking_leaves_no_colour_behind(demo: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/chat"] = Reply([{"message": {"thinking": "Hm. "}}] * 500, pause_s=0.02)
    opened = Terminal(demo, "--think")
    opened.child.sendline("6*7")
    opened.child.expect_exact("Hm. Hm.")
    opened.child.send("\x03")
    said = opened.wait()
    opened.leave()
    assert "^C\x1b[0m\r\n" in said
    assert "done thinking" not in said
