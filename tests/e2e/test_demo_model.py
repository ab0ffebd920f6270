"""The built-in model through both APIs: what the engine, the template and the parsers make of a trained model."""

from __future__ import annotations

import json

import httpx
import ollama
import openai
import pytest

from tests.e2e.daemon_process import DaemonProcess

QUESTION = "What is Ayni?"
ANSWER = "Ayni pools the computers of a home or office into one private LLM service."
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The name of the city"}},
            "required": ["city"],
        },
    },
}
ASKED_FOR_WEATHER = {"role": "user", "content": "What is the weather in Paris?"}
EXACT = {"temperature": 0}


def test_it_answers_through_both_apis_and_stops_by_itself(native: ollama.Client, client: openai.OpenAI) -> None:
    answer = native.chat("demo", messages=[{"role": "user", "content": QUESTION}], think=False, options=EXACT)
    assert (answer.message.content, answer.done_reason) == (ANSWER, "stop")
    parts = native.generate("demo", QUESTION, think=False, options=EXACT, stream=True)
    assert "".join(part.response for part in parts) == ANSWER
    whole = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": QUESTION}], temperature=0, reasoning_effort="none"
    )
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (ANSWER, "stop")


def test_thinking_is_told_from_the_answer(native: ollama.Client) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    thought = native.chat("demo", messages=messages, think=True, options=EXACT).message
    plain = native.chat("demo", messages=messages, think=False, options=EXACT).message
    assert thought.thinking
    assert "think>" not in (thought.content or "") + thought.thinking
    assert plain.thinking is None
    streamed = list(native.chat("demo", messages=messages, think=True, options=EXACT, stream=True))
    assert "".join(part.message.thinking or "" for part in streamed) == thought.thinking
    assert "".join(part.message.content or "" for part in streamed) == thought.content


def test_reasoning_comes_as_such_to_openais_clients(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": QUESTION}], temperature=0, reasoning_effort="low"
    )
    assert answer.choices[0].message.model_extra
    assert answer.choices[0].message.model_extra["reasoning"]


def test_a_tool_is_called_and_its_result_used(native: ollama.Client) -> None:
    asked = native.chat("demo", messages=[ASKED_FOR_WEATHER], tools=[WEATHER], think=False, options=EXACT).message
    assert asked.tool_calls
    [call] = asked.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Paris"})
    assert not asked.content
    result = {"role": "tool", "tool_name": "get_weather", "content": "22°C"}
    answer = native.chat(
        "demo", messages=[ASKED_FOR_WEATHER, asked, result], tools=[WEATHER], think=False, options=EXACT
    )
    assert "22" in (answer.message.content or "")


def test_a_tool_call_streams_to_openais_clients(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],  # type: ignore[list-item]
        temperature=0,
        reasoning_effort="none",
        stream=True,
    )
    chunks = list(stream)
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.type) for call in calls] == [(0, "function")]
    assert calls[0].id
    assert calls[0].function
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments or "") == {"city": "Paris"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_it_is_always_listed_and_can_not_be_deleted(native: ollama.Client, daemon: DaemonProcess) -> None:
    assert "demo:latest" in {model.model for model in native.list().models}
    assert set(native.show("demo").capabilities or []) >= {"completion", "tools", "thinking"}
    refused = httpx.request("DELETE", f"{daemon.url}/api/delete", json={"model": "demo"})
    assert refused.status_code == 403
    with pytest.raises(ollama.ResponseError, match="built in"):
        native.delete("demo")
