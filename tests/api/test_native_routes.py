"""Ollama's inference endpoints, in front of a scripted node."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import httpx
import pytest

from node.errors import DoesNotFit, JobFailed, QueueFull, RunnerLost
from node.jobs import Alternative, Chat, Delta, Failed, Infill, Message, Raw, TokenLogprob, ToolCall
from tests.api.scripted_node import ScriptedNode

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


async def test_chat_streams_one_line_per_delta_and_ends_with_the_figures(
    http: httpx.AsyncClient, node: ScriptedNode
) -> None:
    response = await http.post("/api/chat", json={"model": "plain", "messages": [USER]})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    first, second, last = lines(response)
    assert TIME.fullmatch(first.pop("created_at"))
    assert first == {"model": "plain", "message": {"role": "assistant", "content": "Hel"}, "done": False}
    assert second["message"]["content"] == "lo"
    assert last.pop("total_duration") > 0
    del last["created_at"], last["load_duration"]
    assert last == {
        "model": "plain",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 5,
        "prompt_eval_duration": 3_000_000,
        "eval_count": 2,
        "eval_duration": 4_000_000,
    }


async def test_generate_without_streaming_is_one_object_with_the_context(http: httpx.AsyncClient) -> None:
    response = await http.post("/api/generate", json={"model": "plain", "prompt": "x", "stream": False})
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    answer = response.json()
    assert (answer["response"], answer["done"], answer["context"]) == ("Hello", True, [1, 2, 3])


async def test_raw_generate_has_no_context_and_no_template(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    body = {"model": "plain", "prompt": "<x>", "raw": True, "stream": False}
    answer = (await http.post("/api/generate", json=body)).json()
    assert "context" not in answer
    assert node.jobs[0].prompt == Raw(prompt="<x>")


async def test_thinking_tool_calls_and_logprobs_are_shown(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    chosen = Alternative(7, b"\xc3", -0.5)
    node.say(
        Delta(job="", thinking="hm"),
        Delta(job="", tool_calls=(ToolCall(name="add", arguments={"a": 1}),)),
        Delta(job="", tool_calls=(ToolCall(name="add", arguments={"a": 2}, id="call_x"),)),
        Delta(job="", text="", logprobs=(TokenLogprob(chosen, (chosen,)),)),
    )
    body = {"model": "able", "messages": [USER], "tools": [TOOL], "logprobs": True, "top_logprobs": 1}
    thought, call, second_call, scored, _ = lines(await http.post("/api/chat", json=body))
    assert thought["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    [first] = call["message"]["tool_calls"]
    assert re.fullmatch(r"call_[0-9a-f]{8}", first.pop("id"))
    assert first == {"function": {"index": 0, "name": "add", "arguments": {"a": 1}}}
    assert second_call["message"]["tool_calls"] == [
        {"id": "call_x", "function": {"index": 1, "name": "add", "arguments": {"a": 2}}}
    ]
    token = {"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]}
    assert scored["logprobs"] == [token | {"top_logprobs": [token]}]
    assert node.jobs[0].logprobs == 1


async def test_generate_builds_the_conversation_from_system_prompt_images_and_context(
    http: httpx.AsyncClient, node: ScriptedNode
) -> None:
    body = {"model": "plain", "prompt": "p", "system": "S", "template": "T", "context": [4, 5]}
    await http.post("/api/generate", json=body)
    messages = (Message(role="system", content="S"), Message(role="user", content="p"))
    assert node.jobs[0].prompt == Chat(messages=messages, template="T", context=(4, 5))


async def test_a_system_message_of_the_request_replaces_the_models(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    await http.post("/api/chat", json={"model": "plain", "messages": [USER]})
    await http.post("/api/chat", json={"model": "plain", "messages": [{"role": "System", "content": "S"}, USER]})
    without, with_system = (job.prompt for job in node.jobs)
    assert isinstance(without, Chat)
    assert isinstance(with_system, Chat)
    assert without.messages[0] == Message(role="system", content="Be brief.")
    assert with_system.messages[0] == Message(role="system", content="S")


async def test_a_suffix_needs_a_model_that_can_insert(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    body = {"model": "plain", "prompt": "a", "suffix": "b"}
    refused = await http.post("/api/generate", json=body)
    assert (refused.status_code, refused.json()) == (400, {"error": '"plain" does not support insert'})
    await http.post("/api/generate", json=body | {"template": "{{ .Prompt }}{{ .Suffix }}"})
    assert node.jobs[0].prompt == Infill(prefix="a", suffix="b", template="{{ .Prompt }}{{ .Suffix }}")


async def test_options_go_over_the_models_parameters(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    body = {"model": "plain", "messages": [USER], "options": {"top_k": 7.9, "stop": ["A"], "seed": -1, "num_ctx": 16}}
    await http.post("/api/chat", json=body)
    job = node.jobs[0]
    assert (job.sampling.temperature, job.sampling.top_k, job.sampling.seed, job.stop) == (0.5, 7, None, ("A",))
    assert node.options[0].num_ctx == 16


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"top_k": True}, 'option "top_k" must be of type integer'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ],
)
async def test_an_option_of_the_wrong_type_is_named(
    http: httpx.AsyncClient, options: dict[str, Any], complaint: str
) -> None:
    response = await http.post("/api/chat", json={"model": "plain", "messages": [USER], "options": options})
    assert (response.status_code, response.json()) == (400, {"error": complaint})


async def test_an_unknown_option_is_ignored(http: httpx.AsyncClient) -> None:
    body = {"model": "plain", "prompt": "x", "options": {"no_such_thing": 1, "low_vram": True}}
    assert (await http.post("/api/generate", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("keep_alive", "seconds"), [(10, 10.0), ("5m", 300.0), ("1h30m", 5400.0), (-1, math.inf), ("-1s", math.inf)]
)
async def test_keep_alive_in_all_its_forms(
    http: httpx.AsyncClient, node: ScriptedNode, keep_alive: Any, seconds: float
) -> None:
    await http.post("/api/generate", json={"model": "plain", "prompt": "x", "keep_alive": keep_alive})
    assert node.keep_alives == [seconds]


async def test_a_request_without_prompt_loads_and_with_keep_alive_0_unloads(
    http: httpx.AsyncClient, node: ScriptedNode
) -> None:
    loading = (await http.post("/api/generate", json={"model": "plain"})).json()
    unloading = (await http.post("/api/chat", json={"model": "plain", "keep_alive": 0})).json()
    assert (loading["done"], loading["done_reason"], loading["response"]) == (True, "load", "")
    assert (unloading["done_reason"], unloading["message"]) == ("unload", {"role": "assistant", "content": ""})
    assert (node.loads, [str(name) for name in node.unloaded]) == (1, ["plain:latest"])


async def test_debug_render_only_shows_the_prompt(http: httpx.AsyncClient) -> None:
    body = {"model": "plain", "messages": [USER], "_debug_render_only": True}
    response = await http.post("/api/chat", json=body)
    assert response.json()["_debug_info"] == {"rendered_template": "the prompt"}


@pytest.mark.parametrize(
    ("model", "extra", "complaint"),
    [
        ("plain", {"tools": [TOOL]}, "registry.ollama.ai/library/plain:latest does not support tools"),
        ("plain", {"think": True}, '"plain" does not support thinking'),
        ("plain", {"think": "high"}, '"plain" does not support thinking'),
        ("embedder", {}, '"embedder" does not support chat'),
        ("plain", {"messages": [USER | {"images": ["aGk="]}]}, '"plain" does not support image input'),
        ("plain", {"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ("plain", {"think": "much"}, "think: invalid think value"),
        ("plain", {"format": "xml"}, "format: invalid format: 'xml'"),
        ("plain", {"messages": [{"role": "user", "content": 1}]}, "messages.0.content: Input should be a valid string"),
        ("plain", {"messages": [USER | {"images": ["?"]}]}, "messages.0.images.0: illegal base64 data"),
        ("plain", {"format": {"maximum": 2**64}}, "format: number out of range"),
        ("plain", {"options": {"top_k": -(2**70)}}, "options: number out of range"),
        ("able", {"tools": [TOOL | {"x": [2**64]}]}, "tools.0: number out of range"),
        ("plain", {"keep_alive": "soon"}, "keep_alive: invalid duration 'soon'"),
        ("plain", {"stream": "yes"}, "stream: Input should be a valid boolean"),
        ("", {}, "model is required"),
        ("a b", {}, "invalid model name"),
    ],
)
async def test_what_a_model_or_a_field_can_not_be_is_refused_by_name(
    http: httpx.AsyncClient, model: str, extra: dict[str, Any], complaint: str
) -> None:
    response = await http.post("/api/chat", json={"model": model, "messages": [USER]} | extra)
    assert response.status_code == 400
    assert response.json()["error"].startswith(complaint)


async def test_a_model_that_can_think_is_told_what_the_request_says(
    http: httpx.AsyncClient, node: ScriptedNode
) -> None:
    for think in (None, False, "low"):
        await http.post("/api/chat", json={"model": "able", "messages": [USER], "think": think})
    assert [job.prompt.think for job in node.jobs if isinstance(job.prompt, Chat)] == [None, False, "low"]


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/show"])
async def test_an_unknown_model_is_404_in_ollamas_words(http: httpx.AsyncClient, path: str) -> None:
    response = await http.post(path, json={"model": "nope", "prompt": "x"})
    assert (response.status_code, response.json()) == (404, {"error": "model 'nope' not found"})


async def test_embed_takes_one_text_or_many(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    one = (await http.post("/api/embed", json={"model": "embedder", "input": "a", "dimensions": 1})).json()
    two = (await http.post("/api/embed", json={"model": "embedder", "input": ["a", "b"], "truncate": False})).json()
    none = (await http.post("/api/embed", json={"model": "embedder", "input": []})).json()
    assert (one["embeddings"], one["prompt_eval_count"]) == ([[1.0, -2.0]], 3)
    assert (len(two["embeddings"]), none["embeddings"]) == (2, [])
    assert [(job.inputs, job.dimensions, job.truncate) for job in node.embeds] == [
        (("a",), 1, True),
        (("a", "b"), None, False),
    ]


async def test_the_old_embeddings_endpoint_gives_one_vector_as_it_is(
    http: httpx.AsyncClient, node: ScriptedNode
) -> None:
    answer = (await http.post("/api/embeddings", json={"model": "embedder", "prompt": "a"})).json()
    assert answer == {"embedding": [1.0, -2.0]}
    assert not node.embeds[0].normalize


async def test_an_error_before_the_first_token_has_its_own_status(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    cases: list[tuple[Exception, int]] = [
        (QueueFull(512, 7), 503),
        (DoesNotFit(8 << 30, 1 << 30, "plain"), 503),
        (JobFailed(Failed(job="", kind="bad_request", message="no")), 400),
        (JobFailed(Failed(job="", kind="context_exceeded", message="too long")), 400),
        (RunnerLost("plain", "signal 9"), 500),
    ]
    for error, status in cases:
        node.events = [error]
        for stream in (True, False):
            response = await http.post("/api/chat", json={"model": "plain", "messages": [USER], "stream": stream})
            assert (response.status_code, response.json()) == (status, {"error": str(error)})
    node.events = [QueueFull(512, 7)]
    assert (await http.post("/api/generate", json={"model": "plain", "prompt": "x"})).headers["retry-after"] == "7"


async def test_an_error_in_the_middle_is_the_last_line(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    node.events = [Delta(job="", text="Hel"), RunnerLost("plain", "signal 9")]
    first, last = lines(await http.post("/api/chat", json={"model": "plain", "messages": [USER]}))
    assert first["message"]["content"] == "Hel"
    assert last == {"error": "the runner of model 'plain' is gone (signal 9); please try again"}
    assert node.closed == 1


async def test_deltas_that_show_nothing_yet_are_not_sent(http: httpx.AsyncClient, node: ScriptedNode) -> None:
    node.say(Delta(job="", tokens=(1,)), Delta(job="", text="é", tokens=(2,)))
    assert len(lines(await http.post("/api/chat", json={"model": "plain", "messages": [USER]}))) == 2


async def test_a_null_field_counts_as_absent(http: httpx.AsyncClient) -> None:
    body = {"model": "plain", "messages": [USER], "options": None, "format": None, "tools": None, "stream": None}
    assert (await http.post("/api/chat", json=body)).status_code == 200
