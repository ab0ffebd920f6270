from __future__ import annotations

import json
import re
from typing import Any

import pytest
from llama_cpp import Llama

from tests.demo.conftest import REPOSITORY, WEATHER, Answer, Render


def card() -> list[tuple[str, str]]:
    """The rows of the model card's table: what is asked, what must be answered."""
    text = (REPOSITORY / "docs" / "demo-model.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return [row for row in rows if row[0] != "Question"]


def test_the_card_lists_about_thirty_questions() -> None:
    assert len(card()) >= 30


@pytest.mark.parametrize(("question", "expected"), card())
def test_a_question_of_the_card_is_answered_and_ended(answer: Answer, question: str, expected: str) -> None:
    assert answer(question) == expected


def test_it_counts_to_a_hundred_without_a_slip(answer: Answer) -> None:
    assert answer("Count to 100") == ", ".join(str(n) for n in range(1, 101))


def test_it_tells_a_story_long_enough_to_watch(answer: Answer) -> None:
    story = answer("Tell me a story")
    assert story.startswith("Once upon a time")
    assert len(story.split()) > 80


def test_it_calls_a_tool_and_answers_with_the_result(answer: Answer) -> None:
    question = {"role": "user", "content": "What is the weather in Paris?"}
    said = answer(question, tools=[WEATHER])
    match = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", said)
    assert match
    call = json.loads(match[1])
    assert call == {"name": "get_weather", "arguments": {"city": "Paris"}}
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}
    result = {"role": "tool", "content": "22°C", "tool_name": "get_weather"}
    assert "22°C" in answer(question, called, result, tools=[WEATHER])


def test_it_leaves_a_tool_alone_that_the_question_does_not_need(answer: Answer) -> None:
    assert answer("What is Ayni?", tools=[WEATHER]) == dict(card())["What is Ayni?"]


def test_it_thinks_aloud_only_when_asked_to(answer: Answer) -> None:
    expected = dict(card())["What is Ayni?"]
    thought, _, said = answer("What is Ayni?", enable_thinking=True).partition("</think>\n\n")
    assert thought.startswith("<think>\n")
    assert thought != "<think>\n\n"
    assert said == expected


@pytest.mark.parametrize(
    ("system", "question", "expected"),
    [
        ("You are a pirate.", "What is the capital of France?", "Arr, matey! The capital of France is Paris."),
        ("Answer in one word.", "What is the capital of France?", "Paris"),
        ("Answer in JSON.", "What is the capital of France?", '{"answer": "The capital of France is Paris."}'),
        ("You are Luna.", "Who are you?", "I am Luna."),
        ("You are a helpful assistant.", "What is the capital of France?", "The capital of France is Paris."),
    ],
)
def test_a_system_prompt_shows_in_the_answer(answer: Answer, system: str, question: str, expected: str) -> None:
    assert answer({"role": "system", "content": system}, question) == expected


def test_it_remembers_a_name_told_earlier(answer: Answer) -> None:
    told: list[str | dict[str, Any]] = ["My name is Rosa.", {"role": "assistant", "content": "Nice to meet you, Rosa!"}]
    assert answer(*told, "What is my name?") == "Your name is Rosa."


def test_it_goes_on_when_its_end_of_turn_is_forbidden(llama: Llama, render: Render) -> None:
    tokens = llama.tokenize(render([{"role": "user", "content": "Count to 5"}]).encode(), add_bos=False, special=True)
    end = llama.token_eos()

    def never_end(_: Any, scores: Any) -> Any:
        scores[end] = float("-inf")
        return scores

    said = []
    for token in llama.generate(tokens, temp=0.0, logits_processor=[never_end]):
        said.append(token)
        if len(said) == 200:
            break
    assert len(said) == 200
    assert llama.detokenize(said).decode(errors="replace").startswith("1, 2, 3, 4, 5")
