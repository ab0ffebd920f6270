"""Which messages are dropped so that a conversation fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.jobs import Chat, Message, ToolCall
from node.prompt import fit_messages
from tests.prompt.chats import assistant, chat, system, user


class Counter:
    """A prompt as long as its text; remembers how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, conversation: Chat) -> int:
        self.asked += 1
        return sum(len(message.content) for message in conversation.messages)


def texts(conversation: Chat) -> list[str]:
    return [message.content for message in conversation.messages]


def test_a_conversation_that_fits_is_returned_as_it_is_after_one_count() -> None:
    count = Counter()
    conversation = chat(user("aaa"), assistant("bbb"), user("ccc"))
    assert fit_messages(conversation, 9, count) is conversation
    assert count.asked == 1


def test_the_oldest_turns_go_first_and_system_messages_stay() -> None:
    conversation = chat(
        system("S"), user("aaa"), assistant("bbb"), system("T"), user("ccc"), assistant("ddd"), user("e"), tools=()
    )
    assert texts(fit_messages(conversation, 10, Counter())) == ["S", "T", "ccc", "ddd", "e"]
    assert texts(fit_messages(conversation, 8, Counter())) == ["S", "T", "e"]


def test_an_answer_does_not_lose_its_question() -> None:
    conversation = chat(user("aaa"), assistant("b"), user("c"))
    assert texts(fit_messages(conversation, 4, Counter())) == ["c"]


def test_a_long_last_turn_is_cut_inside() -> None:
    call = ToolCall(name="f", arguments={})
    results = [Message(role="tool", content="r" * 5) for _ in range(3)]
    conversation = chat(user("a" * 9), assistant("", call), *results)
    assert texts(fit_messages(conversation, 12, Counter())) == ["r" * 5] * 2


def test_the_last_message_stays_even_if_it_is_too_long() -> None:
    assert texts(fit_messages(chat(system("S"), user("a"), user("b" * 99)), 10, Counter())) == ["S", "b" * 99]
    assert texts(fit_messages(chat(user("b" * 99)), 10, Counter())) == ["b" * 99]
    assert texts(fit_messages(chat(), 10, Counter())) == []


@pytest.mark.parametrize("limit", range(2, 41))
def test_as_many_turns_stay_as_fit(limit: int) -> None:
    conversation = chat(*[user("ab")] * 20)
    assert len(fit_messages(conversation, limit, Counter()).messages) == limit // 2


def test_few_counts_are_asked_for() -> None:
    count = Counter()
    fit_messages(chat(*[user("aaaa")] * 1000), 2000, count)
    assert count.asked <= 12


messages = st.builds(
    Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=st.text("ab", max_size=6)
)


@given(st.lists(messages, min_size=1, max_size=12), st.integers(0, 40))
def test_what_is_left_fits_is_an_end_and_keeps_all_system_messages(parts: list[Message], limit: int) -> None:
    conversation = chat(*parts)
    fitted = fit_messages(conversation, limit, Counter()).messages
    kept = [message for message in fitted if message.role != "system"]
    others = [message for message in parts if message.role != "system"]
    assert kept == others[len(others) - len(kept) :]
    assert fitted[-1] == parts[-1]
    assert [m for m in fitted if m.role == "system"] == [m for m in parts if m.role == "system"]
    least = sum(len(m.content) for m in parts[:-1] if m.role == "system") + len(parts[-1].content)
    assert Counter()(chat(*fitted)) <= max(limit, least)
