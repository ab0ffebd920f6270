from __future__ import annotations

from typing import Any

import pytest

from tests.demo.conftest import WEATHER, Render

HELLO = [{"role": "user", "content": "Hello"}]
NO_THOUGHT = "<think>\n\n</think>\n\n"


def test_a_question_ends_in_an_empty_thought_unless_thinking_is_asked_for(render: Render) -> None:
    asked = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert render(HELLO) == asked + NO_THOUGHT
    assert render(HELLO, enable_thinking=False) == asked + NO_THOUGHT
    assert render(HELLO, enable_thinking=True) == asked


def test_without_a_generation_prompt_the_text_ends_with_the_last_turn(render: Render) -> None:
    assert render(HELLO, add_generation_prompt=False) == "<|im_start|>user\nHello<|im_end|>\n"


def test_a_system_prompt_stands_first(render: Render) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert render(messages).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")


def test_tools_stand_in_the_system_turn_with_or_without_a_system_prompt(render: Render) -> None:
    alone = render(HELLO, tools=[WEATHER])
    assert alone.startswith(
        '<|im_start|>system\nTools:\n<tools>\n{"type": "function", "function": {"name": "get_weather"'
    )
    after = render([{"role": "system", "content": "Be brief."}, *HELLO], tools=[WEATHER])
    assert after == alone.replace("Tools:", "Be brief.\n\nTools:", 1)


def test_a_turn_of_the_history_renders_as_it_was_generated(render: Render) -> None:
    history = [*HELLO, {"role": "assistant", "content": "Hi!"}]
    assert render([*history, *HELLO]).startswith(render(HELLO) + "Hi!<|im_end|>\n")


def test_old_thoughts_are_dropped_and_those_since_the_last_question_kept(render: Render) -> None:
    call = {
        "role": "assistant",
        "content": "",
        "thinking": "I need it.",
        "tool_calls": [weather_call({"city": "Lima"})],
    }
    result = {"role": "tool", "content": "sunny", "tool_name": "get_weather"}
    going_on = render([*HELLO, call, result], enable_thinking=True)
    assert "<think>\nI need it.\n</think>\n\n<tool_call>" in going_on
    assert "I need it." not in render([*HELLO, call, result, *HELLO], enable_thinking=True)


def weather_call(arguments: dict[str, Any] | str) -> dict[str, Any]:
    return {"function": {"name": "get_weather", "arguments": arguments}}


@pytest.mark.parametrize("arguments", [{"city": "Lima"}, '{"city": "Lima"}'])
def test_a_call_renders_alike_from_parsed_arguments_and_from_json_text(
    render: Render, arguments: dict[str, Any] | str
) -> None:
    text = render([*HELLO, {"role": "assistant", "content": None, "tool_calls": [weather_call(arguments)]}])
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Lima"}}\n</tool_call><|im_end|>' in text


def test_results_of_parallel_calls_share_one_turn(render: Render) -> None:
    results = [{"role": "tool", "content": "sunny"}, {"role": "tool", "content": "windy"}]
    text = render(
        [*HELLO, {"role": "assistant", "content": "", "tool_calls": [weather_call({}), weather_call({})]}, *results]
    )
    assert (
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n<tool_response>\nwindy\n</tool_response><|im_end|>\n"
        in text
    )


def test_a_thought_inside_the_content_counts_as_thinking(render: Render) -> None:
    history = [*HELLO, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi!"}, *HELLO]
    assert "hm" not in render(history)
    assert f"{NO_THOUGHT}Hi!<|im_end|>" in render(history)
