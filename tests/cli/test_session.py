from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cli.session import Choices, Entry, EntryReader, Session


def entries(*lines: str) -> list[Entry]:
    reader = EntryReader()
    return [entry for line in lines if (entry := reader.feed(line)) is not None]


def test_a_line_is_a_message_a_command_or_nothing() -> None:
    assert entries("Hello", "  ", "/bye", "/set system Be  kind ") == [
        Entry("message", "Hello"),
        Entry("command", "/bye"),
        Entry("system", "Be  kind"),
    ]


def test_triple_quotes_hold_lines_together() -> None:
    assert entries('"""one', "/bye", 'two"""', '"""same line"""', '/set system """a', 'b"""', "end") == [
        Entry("message", "one\n/bye\ntwo"),
        Entry("message", "same line"),
        Entry("system", "a\nb"),
        Entry("message", "end"),
    ]


def test_an_empty_block_is_nothing_and_a_reset_forgets_one() -> None:
    assert entries('"""', '"""') == []
    reader = EntryReader()
    assert reader.feed('"""one') is None
    assert reader.within_block
    reader.reset()
    assert reader.feed("two") == Entry("message", "two")


@given(st.lists(st.text(alphabet='ab "/\n', max_size=8), min_size=1))
def test_whatever_is_typed_a_block_keeps_its_text(lines: list[str]) -> None:
    if not any('"""' in line for line in lines) and not lines[-1].endswith('"') and "".join(lines).strip():
        if any(line.endswith('"') for line in lines):
            return
        assert entries('"""' + lines[0], *lines[1:], '"""') == [Entry("message", "\n".join([*lines, ""]))]


def test_a_session_sends_its_turns_and_what_was_chosen() -> None:
    session = Session("demo", Choices(output_format="json", keep_alive="5m"))
    session.set_system("Be kind.")
    session.set_system("Be brief.")
    session.ask("Hi")
    session.answer("Hello", "hm")
    session.ask("Bye")
    session.options["seed"] = 7
    assert session.chat_body() == {
        "model": "demo",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello", "thinking": "hm"},
            {"role": "user", "content": "Bye"},
        ],
        "options": {"seed": 7},
        "format": "json",
        "keep_alive": "5m",
    }


def test_a_question_without_an_answer_is_taken_back() -> None:
    session = Session("demo", Choices())
    session.ask("Hi")
    session.answer("", "")
    assert session.messages == []


def test_clear_keeps_the_system_message() -> None:
    session = Session("demo", Choices())
    session.set_system("Be kind.")
    session.ask("Hi")
    session.clear()
    assert session.messages == [{"role": "system", "content": "Be kind."}]


def test_a_model_that_can_think_does_unless_somebody_chose() -> None:
    shown = {"capabilities": ["completion", "thinking"], "details": {"parent_model": "base"}}
    session = Session("demo", Choices())
    session.adopt(shown)
    assert (session.choices.think, session.parent) == (True, "base")
    session.adopt({})
    assert session.choices.think is None
    chosen = Session("demo", Choices(think=False), think_chosen=True)
    chosen.adopt(shown)
    assert chosen.choices.think is False


def test_saving_names_the_parent_the_models_turns_and_ours() -> None:
    session = Session("mine", Choices(), parent="base", own_messages=[{"role": "user", "content": "1"}])
    session.set_system("Be kind.")
    session.options["stop"] = ["x"]
    assert session.create_body("new") == {
        "model": "new",
        "from": "base",
        "system": "Be kind.",
        "parameters": {"stop": ["x"]},
        "messages": [{"role": "user", "content": "1"}, {"role": "system", "content": "Be kind."}],
    }
