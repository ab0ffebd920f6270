"""OpenAI's own Python client against the real daemon and the real engine."""

from __future__ import annotations

from typing import Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.e2e.daemon_process import DaemonProcess

USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say something."}]


class Verdict(BaseModel):
    answer: Literal["yes", "no"]
    sure: bool


def test_chat_completions_streamed_and_whole_agree(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=USER, max_tokens=8, temperature=0)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage
    assert whole.usage.completion_tokens == 8
    stream = client.chat.completions.create(
        model="tiny",
        messages=USER,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, usage = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert usage.usage
    assert usage.usage.prompt_tokens_details
    assert usage.usage.prompt_tokens_details.cached_tokens


async def test_the_async_client_streams_too(daemon: DaemonProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(model="tiny", messages=USER, max_tokens=4, stream=True)
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"


def test_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=USER, max_tokens=6, n=3, seed=1, temperature=1)
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage
    assert answer.usage.completion_tokens == 18


def test_a_schema_is_always_met(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(model="tiny", messages=USER, response_format=Verdict, max_tokens=100)
    assert parsed.choices[0].message.parsed


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=USER, max_tokens=3, logprobs=True, top_logprobs=2, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert [len(item.top_logprobs) for item in logprobs.content] == [2, 2, 2]


def test_completions_with_text_and_token_ids(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=4, temperature=0, logprobs=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].logprobs
    assert len(answer.choices[0].logprobs.tokens or []) == 4
    streamed = client.completions.create(model="tiny", prompt=[70, 71, 72], max_tokens=4, stream=True)
    assert [chunk.choices[0].finish_reason for chunk in streamed][-1] == "length"


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="embedder", input=["one", "two"])
    plain = client.embeddings.create(model="embedder", input="one", encoding_format="float")
    assert answer.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-4)
    assert answer.usage.prompt_tokens
    assert len(client.embeddings.create(model="embedder", input="one", dimensions=4).data[0].embedding) == 4


def test_models(client: openai.OpenAI) -> None:
    assert "tiny:latest" in {model.id for model in client.models.list()}
    assert client.models.retrieve("tiny").owned_by == "library"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_refusals_are_the_clients_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nope", messages=USER)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        client.chat.completions.create(
            model="tiny", messages=USER, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]
        )
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="tiny", messages=USER, temperature="hot")  # type: ignore[arg-type]
