"""Events in OpenAI's shape: server-sent events, or one object for the whole answer.

Chunks of a stream are put together from prepared bytes: this runs once for each token.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal

import msgspec

from api.errors import Fault
from api.last_words import last_words
from api.native_answers import logprob_objects, new_call_id, text_of
from api.stream import Answer
from node.jobs import Delta, Done, Event, TokenLogprob, ToolCall, Usage

SSE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
encode = msgspec.json.Encoder().encode


def error_event(fault: Fault) -> bytes:
    """An error within a stream."""
    return b"data: " + fault.openai() + b"\n\n"


class Envelope:
    """What all chunks of one answer share, and how choices are put into it.

    `choices_per_prompt` is OpenAI's `n`: the tokens of a prompt count once however many choices it has.
    """

    def __init__(
        self, kind: Literal["chat.completion", "text_completion"], model: str, fingerprint: str, choices_per_prompt: int
    ) -> None:
        prefix = "chatcmpl" if kind == "chat.completion" else "cmpl"
        self._whole_kind = kind
        self._fields = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk" if kind == "chat.completion" else kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._choices_per_prompt = choices_per_prompt
        self.head = b"data: " + encode(self._fields)[:-1] + b',"choices":[{"index":'

    def chunk(self, choice: dict[str, Any]) -> bytes:
        """An event with one choice."""
        return b"data: " + encode(self._fields | {"choices": [choice]}) + b"\n\n"

    def last_chunk(self, choice: dict[str, Any]) -> bytes:
        """The event that ends a choice."""
        return b"data: " + encode(self._fields | {"choices": [choice]} | last_words()) + b"\n\n"

    def usage_chunk(self, usages: Sequence[Usage]) -> bytes:
        """The event that `stream_options.include_usage` asks for."""
        return b"data: " + encode(self._fields | {"choices": [], "usage": self._usage(usages)}) + b"\n\n"

    def whole(self, choices: Sequence[dict[str, Any]], usages: Sequence[Usage]) -> bytes:
        """The answer in one object."""
        fields = {"object": self._whole_kind, "choices": choices, "usage": self._usage(usages)}
        return encode(self._fields | fields)

    def rendered(self, text: str) -> bytes:
        """The answer to a request that only wants to see the prompt."""
        fields: dict[str, Any] = {"object": self._whole_kind, "choices": [], "_debug_info": {"rendered_template": text}}
        return encode(self._fields | fields)

    def _usage(self, usages: Sequence[Usage]) -> dict[str, Any]:
        first_choices = usages[:: self._choices_per_prompt]
        prompt_tokens = sum(usage.prompt_tokens for usage in first_choices)
        output_tokens = sum(usage.output_tokens for usage in usages)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in first_choices)},
        }


class ChatChoice:
    """Renders one choice of /v1/chat/completions."""

    def __init__(self, envelope: Envelope, index: int) -> None:
        self._envelope = envelope
        self._index = index
        self._calls = 0
        self._opened = False
        self._head = envelope.head + encode(index) + b',"delta":{"content":'

    def chunks(self, event: Event) -> bytes:
        """What one event adds to a stream: events, or nothing."""
        match event:
            case Delta() if event.thinking or event.tool_calls or event.logprobs or not self._opened:
                return self._rich(event)
            case Delta() if event.text:
                return self._head + encode(event.text) + b'},"finish_reason":null}]}\n\n'
            case Done():
                opening = b"" if self._opened else self._chunk({"role": "assistant", "content": ""})
                choice = {"index": self._index, "delta": {}, "finish_reason": self._finish_reason(event)}
                return opening + self._envelope.last_chunk(choice)
        return b""

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The choice in one object."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.thinking:
            message["reasoning"] = answer.thinking
        if answer.tool_calls:
            message["tool_calls"] = [self._call(call) for call in answer.tool_calls]
        choice: dict[str, Any] = {"index": self._index, "message": message}
        if answer.done is not None:
            choice["finish_reason"] = self._finish_reason(answer.done)
        if answer.logprobs:
            choice["logprobs"] = {"content": logprob_objects(answer.logprobs)}
        return choice

    def _rich(self, event: Delta) -> bytes:
        """An event that is more than text; reasoning gets a chunk of its own, as in Ollama."""
        deltas: list[dict[str, Any]] = []
        if event.thinking:
            deltas.append({"reasoning": event.thinking})
        if event.text or event.tool_calls or (event.logprobs and not deltas):
            deltas.append({"content": event.text})
        if event.tool_calls:
            deltas[-1]["tool_calls"] = [self._call(call) for call in event.tool_calls]
        if not deltas:
            return b""
        if not self._opened:
            self._opened = True
            deltas[0] = {"role": "assistant"} | deltas[0]
        logprobs = {"content": logprob_objects(event.logprobs)} if event.logprobs else None
        chunks = [self._chunk(delta) for delta in deltas[:-1]]
        return b"".join((*chunks, self._chunk(deltas[-1], logprobs)))

    def _chunk(self, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> bytes:
        choice: dict[str, Any] = {"index": self._index, "delta": delta, "finish_reason": None}
        return self._envelope.chunk(choice | ({"logprobs": logprobs} if logprobs else {}))

    def _call(self, call: ToolCall) -> dict[str, Any]:
        self._calls += 1
        function = {"name": call.name, "arguments": encode(call.arguments).decode()}
        return {"index": self._calls - 1, "id": call.id or new_call_id(), "type": "function", "function": function}

    def _finish_reason(self, done: Done) -> str:
        return "tool_calls" if done.reason == "stop" and self._calls else done.reason


class TextChoice:
    """Renders one choice of /v1/completions; a model that thinks does so unseen, as this shape has no place for it."""

    def __init__(self, envelope: Envelope, index: int) -> None:
        self._envelope = envelope
        self._index = index
        self._offset = 0
        self._head = envelope.head + encode(index) + b',"text":'

    def chunks(self, event: Event) -> bytes:
        """What one event adds to a stream: an event, or nothing."""
        match event:
            case Delta() if event.logprobs:
                choice = {"index": self._index, "text": event.text, "finish_reason": None}
                return self._envelope.chunk(choice | {"logprobs": self._logprobs(event.logprobs)})
            case Delta() if event.text:
                return self._head + encode(event.text) + b',"logprobs":null,"finish_reason":null}]}\n\n'
            case Done():
                choice = {"index": self._index, "text": "", "logprobs": None, "finish_reason": event.reason}
                return self._envelope.last_chunk(choice)
        return b""

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The choice in one object."""
        return {
            "index": self._index,
            "text": answer.text,
            "logprobs": self._logprobs(answer.logprobs) if answer.logprobs else None,
            "finish_reason": None if answer.done is None else answer.done.reason,
        }

    def _logprobs(self, items: Sequence[TokenLogprob]) -> dict[str, Any]:
        """OpenAI's older form: parallel lists."""
        tokens = [text_of(item.chosen.raw) for item in items]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [item.chosen.logprob for item in items],
            "top_logprobs": [{text_of(other.raw): other.logprob for other in item.top} for item in items],
            "text_offset": offsets,
        }


async def stream_choices(
    envelope: Envelope,
    choices: Sequence[ChatChoice | TextChoice],
    events: AsyncGenerator[tuple[int, Event], None],
    *,
    include_usage: bool,
) -> AsyncGenerator[bytes, None]:
    """All chunks of a stream with any number of choices; closing it closes the events."""
    usages = [Usage()] * len(choices)
    async with aclosing(events) as source:
        async for index, event in source:
            if isinstance(event, Done):
                usages[index] = event.usage
            if chunk := choices[index].chunks(event):
                yield chunk
    if include_usage:
        yield envelope.usage_chunk(usages)
    yield DONE


def whole_choices(envelope: Envelope, choices: Sequence[ChatChoice | TextChoice], answers: Sequence[Answer]) -> bytes:
    """The answer in one object."""
    usages = [Usage() if answer.done is None else answer.done.usage for answer in answers]
    return envelope.whole([choice.whole(answer) for choice, answer in zip(choices, answers, strict=True)], usages)
