"""OpenAI's endpoints, in front of a scripted node."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import pytest

from node.errors import QueueFull, RunnerLost
from node.jobs import Alternative, Chat, Delta, Infill, Message, Raw, TokenLogprob, ToolCall
from tests.api.scripted_node import ScriptedNode

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "add"}}
OTHER_TOOL = {"type": "function", "function": {"name": "sub"}}
CHAT = {"model": "plain", "messages": [USER]}


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; the end mark as text."""
    assert response.text.endswith("\n\n")
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") for block in blocks)
    return [data if data == "[DONE]" else json.loads(data) for data in (block[6:] for block in blocks)]


async def test_a_chat_stream_has_role_text_finish_usage_and_end_mark(http: httpx.AsyncClient) -> None:
    response = await http.post(
        "/v1/chat/completions", json=CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert response.headers["content-type"] == "text/event-stream"
    first, second, finish, usage, end = events(response)
    assert first["object"] == "chat.completion.chunk"
    assert first["id"].startswith("chatcmpl-")
    assert first["system_fingerprint"].startswith("fp_")
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in (first, second, finish, usage)}) == 1
    assert first["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "finish_reason": None}]
    assert second["choices"] == [{"index": 0, "delta": {"content": "lo"}, "finish_reason": None}]
    assert finish["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert end == "[DONE]"


async def test_a_whole_chat_answer(http: httpx.AsyncClient) -> None:
    answer = (await http.post("/v1/chat/completions", json=CHAT)).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    ]
    assert answer["usage"]["total_tokens"] == 7


async def test_reasoning_and_tool_calls_stream_as_deltas(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    node.say(
        Delta(job="", thinking="hm", text="so"),
        Delta(job="", tool_calls=(ToolCall(name="add", arguments={"a": 1}), ToolCall(name="add", arguments={}))),
    )
    body = CHAT | {"model": "able", "tools": [TOOL], "stream": True}
    thought, text, calls, finish, _ = events(await http.post("/v1/chat/completions", json=body))
    assert thought["choices"][0]["delta"] == {"role": "assistant", "reasoning": "hm"}
    assert text["choices"][0]["delta"] == {"content": "so"}
    one, two = calls["choices"][0]["delta"]["tool_calls"]
    assert one["id"] != two["id"]
    assert one | {"id": ""} == {
        "index": 0,
        "id": "",
        "type": "function",
        "function": {"name": "add", "arguments": '{"a":1}'},
    }
    assert two["index"] == 1
    assert finish["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "tool_calls"}


async def test_a_whole_answer_with_reasoning_and_a_call(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    node.say(Delta(job="", thinking="hm"), Delta(job="", tool_calls=(ToolCall(name="add", arguments={}, id="c1"),)))
    answer = (await http.post("/v1/chat/completions", json=CHAT | {"model": "able", "tools": [TOOL]})).json()
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "",
        "reasoning": "hm",
        "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
    }


async def test_several_choices_run_as_several_jobs_with_their_own_seeds(
    http: httpx.AsyncClient, node: ScriptedNode
) -> None:
    answer = (await http.post("/v1/chat/completions", json=CHAT | {"n": 3, "seed": 7})).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == 6
    assert sorted(job.sampling.seed or 0 for job in node.jobs) == [7, 8, 9]
    assert len({job.id for job in node.jobs}) == 3
    streamed = events(await http.post("/v1/chat/completions", json=CHAT | {"n": 3, "stream": True}))
    texts = ["", "", ""]
    for event in streamed[:-1]:
        [choice] = event["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == ["Hello"] * 3


async def test_sampling_fields_go_over_the_models_parameters_and_those_over_openais_defaults(
    http: httpx.AsyncClient, node: ScriptedNode
) -> None:
    await http.post("/v1/chat/completions", json=CHAT)
    await http.post(
        "/v1/chat/completions",
        json=CHAT
        | {
            "temperature": 0.2,
            "top_p": 0.7,
            "max_tokens": 9,
            "max_completion_tokens": 8,
            "stop": "X",
            "frequency_penalty": 0.1,
            "presence_penalty": 0.3,
            "logit_bias": {"3": -200},
            "options": {"num_ctx": 16},
            "keep_alive": 0,
        },
    )
    default, told = node.jobs
    assert (default.sampling.temperature, default.sampling.top_p, default.stop) == (0.5, 1.0, ("END",))
    sampling = told.sampling
    assert (sampling.temperature, sampling.top_p, told.max_tokens, told.stop) == (0.2, 0.7, 8, ("X",))
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.logit_bias) == (0.1, 0.3, {3: -100.0})
    assert (node.options[1].num_ctx, node.keep_alives[1]) == (16, 0.0)


async def test_messages_of_all_kinds_become_ollamas(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    body = {
        "model": "able",
        "messages": [
            {"role": "developer", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "r"},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ],
        "tools": [TOOL, OTHER_TOOL],
        "tool_choice": {"type": "function", "function": {"name": "sub"}},
        "reasoning_effort": "minimal",
    }
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    assert node.jobs[0].prompt == Chat(
        messages=(
            Message(role="system", content="S"),
            Message(role="user", content="a\nb"),
            Message(role="assistant", thinking="r", tool_calls=(ToolCall(id="c1", name="add", arguments={"a": 1}),)),
            Message(role="tool", content="2", tool_name="add", tool_call_id="c1"),
        ),
        tools=(OTHER_TOOL,),
        think="low",
    )


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}, {"type": "array"}),
    ],
)
async def test_response_formats(
    http: httpx.AsyncClient, node: ScriptedNode, response_format: dict[str, Any], expected: Any
) -> None:
    await http.post("/v1/chat/completions", json=CHAT | {"response_format": response_format})
    assert node.jobs[0].output_format == expected


async def test_completions_use_the_template_unless_raw_and_take_token_ids_and_lists(
    http: httpx.AsyncClient, node: ScriptedNode
) -> None:
    for prompt, raw in (("a", False), ("a", True), ([1, 2], False), (["a", "b"], True), ([[1], [2, 3]], False)):
        response = await http.post("/v1/completions", json={"model": "plain", "prompt": prompt, "raw": raw})
        assert response.status_code == 200
    templated, *others = (job.prompt for job in node.jobs)
    assert templated == Chat(messages=(Message(role="system", content="Be brief."), Message(role="user", content="a")))
    prompts: list[str | tuple[int, ...]] = ["a", (1, 2), "a", "b", (1,), (2, 3)]
    assert others == [Raw(prompt=prompt) for prompt in prompts]


async def test_completions_stream_text_with_the_older_logprobs(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    first, second = Alternative(1, b"He", -0.1), Alternative(2, b"y", -0.2)
    node.say(
        Delta(job="", text="He", logprobs=(TokenLogprob(first, (first,)),)),
        Delta(job="", text="y", logprobs=(TokenLogprob(second, (second, first)),)),
        reason="length",
    )
    body = {"model": "plain", "prompt": "a", "logprobs": 2, "stream": True}
    *chunks, finish, end = events(await http.post("/v1/completions", json=body))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["He", "y"]
    assert chunks[1]["choices"][0]["logprobs"] == {
        "tokens": ["y"],
        "token_logprobs": [-0.2],
        "top_logprobs": [{"y": -0.2, "He": -0.1}],
        "text_offset": [2],
    }
    assert (finish["object"], finish["choices"][0]["finish_reason"], end) == ("text_completion", "length", "[DONE]")


async def test_a_suffix_asks_for_what_stands_between(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    body = {"model": "filler", "prompt": "a", "suffix": "b"}
    assert (await http.post("/v1/completions", json=body)).status_code == 200
    assert node.jobs[0].prompt == Infill(prefix="a", suffix="b")


async def test_chat_logprobs(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    chosen = Alternative(1, b"He", -0.1)
    node.say(Delta(job="", text="He", logprobs=(TokenLogprob(chosen, (chosen,)),)))
    body = CHAT | {"logprobs": True, "top_logprobs": 1}
    token = {"token": "He", "logprob": -0.1, "bytes": [72, 101]}
    expected = {"content": [token | {"top_logprobs": [token]}]}
    whole = (await http.post("/v1/chat/completions", json=body)).json()
    assert whole["choices"][0]["logprobs"] == expected
    streamed = events(await http.post("/v1/chat/completions", json=body | {"stream": True}))
    assert streamed[0]["choices"][0]["logprobs"] == expected


async def test_embeddings_as_numbers_and_as_base64(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    body = {"model": "embedder", "input": ["a", "b"]}
    numbers = (await http.post("/v1/embeddings", json=body)).json()
    texts = (await http.post("/v1/embeddings", json=body | {"encoding_format": "base64", "dimensions": 2})).json()
    assert numbers["data"][1] == {"object": "embedding", "embedding": [1.0, -2.0], "index": 1}
    assert struct.unpack("<2f", base64.b64decode(texts["data"][0]["embedding"])) == (1.0, -2.0)
    assert numbers["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [job.dimensions for job in node.embeds] == [None, 2]


async def test_models_are_listed_and_found_by_any_name_they_have(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/v1/models")).json()
    assert {model["id"] for model in listed["data"]} >= {"plain:latest", "able:latest", "embedder:latest"}
    found = (await http.get("/v1/models/registry.ollama.ai/library/plain")).json()
    assert (found["object"], found["owned_by"]) == ("model", "library")
    assert found["id"] == "registry.ollama.ai/library/plain"


@pytest.mark.parametrize(
    ("body", "status", "param", "complaint"),
    [
        ({"model": "plain", "messages": []}, 400, "messages", "[] is too short - 'messages'"),
        ({"messages": [USER]}, 400, "model", "model is required"),
        (CHAT | {"model": "nope"}, 404, "model", "model 'nope' not found"),
        (CHAT | {"n": 0}, 400, "n", "n: Input should be"),
        (CHAT | {"tools": [{}]}, 400, "tools.0.function", "tools.0.function: Field required"),
        (CHAT | {"tools": [TOOL]}, 400, "tools", "registry.ollama.ai/library/plain:latest does not support tools"),
        (CHAT | {"reasoning_effort": "huge"}, 400, "reasoning_effort", "reasoning_effort: invalid reasoning value"),
        (CHAT | {"response_format": {"type": "yaml"}}, 400, "response_format.type", "response_format.type:"),
        (CHAT | {"logit_bias": {"x": 1}}, 400, "logit_bias", "logit_bias: keys must be token ids"),
        (CHAT | {"max_tokens": 2**40}, 400, "max_tokens", "max_tokens: Input should be less than"),
        (CHAT | {"temperature": "x"}, 400, "temperature", "temperature: Input should be a valid number"),
    ],
)
async def test_refusals_have_openais_shape_and_name_the_field(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, param: str, complaint: str
) -> None:
    response = await http.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert error["message"].startswith(complaint)
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    assert error["code"] == ("model_not_found" if status == 404 else None)


async def test_an_error_in_the_middle_is_an_event_and_no_end_mark_follows(
    http: httpx.AsyncClient, node: ScriptedNode
) -> None:
    node.events = [Delta(job="", text="Hel"), RunnerLost("plain", "signal 9")]
    for count in (1, 2):
        streamed = events(await http.post("/v1/chat/completions", json=CHAT | {"stream": True, "n": count}))
        assert "is gone" in streamed[-1]["error"]["message"]
    assert node.closed == 3


async def test_an_error_before_the_first_token_has_its_own_status(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    node.events = [QueueFull(512, 7)]
    for extra in ({"stream": True}, {}, {"n": 2}):
        response = await http.post("/v1/chat/completions", json=CHAT | extra)
        assert (response.status_code, response.headers["retry-after"]) == (503, "7")
        assert response.json()["error"]["type"] == "api_error"
