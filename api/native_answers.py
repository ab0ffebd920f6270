"""Events in Ollama's shape: one JSON object per line, or one for the whole answer.

Lines of a stream are put together from prepared bytes: this runs once for each token.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Literal

import msgspec

from api.clock import now_text
from api.errors import Fault
from api.last_words import last_words
from api.stream import Answer
from node.jobs import Alternative, Delta, Done, Event, TokenLogprob, ToolCall

NDJSON = "application/x-ndjson"
encode = msgspec.json.Encoder().encode


def error_line(fault: Fault) -> bytes:
    """An error within a stream."""
    return fault.native() + b"\n"


def text_of(raw: bytes) -> str:
    """A token's text; parts of a character become U+FFFD."""
    return raw.decode(errors="replace")


def logprob_objects(logprobs: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities as both APIs write them."""
    return [
        _alternative(item.chosen) | ({"top_logprobs": [_alternative(other) for other in item.top]} if item.top else {})
        for item in logprobs
    ]


def _alternative(item: Alternative) -> dict[str, Any]:
    return {"token": text_of(item.raw), "logprob": item.logprob, "bytes": list(item.raw)}


def new_call_id() -> str:
    """An id for a tool call, in Ollama's form."""
    return f"call_{secrets.token_hex(4)}"


class NativeAnswer:
    """Renders one job's events for /api/generate or /api/chat.

    `started_ns` is time.perf_counter_ns() at the request's arrival; `raw` requests get no `context`.
    """

    def __init__(
        self, endpoint: Literal["generate", "chat"], model: str, *, started_ns: int, raw: bool = False
    ) -> None:
        self._endpoint = endpoint
        self._model = model
        self._started_ns = started_ns
        self._raw = raw
        self._calls = 0
        self._head = b'{"model":' + encode(model) + b',"created_at":"'
        self._middle = b'","message":{"role":"assistant","content":' if endpoint == "chat" else b'","response":'
        self._tail = b'},"done":false}\n' if endpoint == "chat" else b',"done":false}\n'

    async def stream(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
        """The lines of a stream; closing it closes the events."""
        async with aclosing(events) as source:
            async for event in source:
                if line := self.line(event):
                    yield line

    def line(self, event: Event) -> bytes:
        """What one event adds to a stream: a line, or nothing."""
        match event:
            case Delta() if event.thinking or event.tool_calls or event.logprobs:
                fields = self._payload(event.text, event.thinking, event.tool_calls) | {"done": False}
                if event.logprobs:
                    fields["logprobs"] = logprob_objects(event.logprobs)
                return self._object(fields) + b"\n"
            case Delta() if event.text:
                created_at = now_text().encode()
                return b"".join((self._head, created_at, self._middle, encode(event.text), self._tail))
            case Done():
                return self._object(self._payload("", "", ()) | self._end(event)) + b"\n"
        return b""

    def whole(self, answer: Answer) -> bytes:
        """The answer in one object."""
        fields = self._payload(answer.text, answer.thinking, answer.tool_calls)
        if answer.done is not None:
            fields |= self._end(answer.done)
        if answer.logprobs:
            fields["logprobs"] = logprob_objects(answer.logprobs)
        return self._object(fields)

    def without_text(self, reason: Literal["load", "unload"]) -> bytes:
        """The answer to a request that only loads or unloads."""
        return self._object(self._payload("", "", ()) | {"done": True, "done_reason": reason})

    def rendered(self, text: str) -> bytes:
        """The answer to a request that only wants to see the prompt."""
        fields = self._payload("", "", ()) | {"done": False, "_debug_info": {"rendered_template": text}}
        return self._object(fields)

    def _object(self, fields: dict[str, Any]) -> bytes:
        return encode({"model": self._model, "created_at": now_text()} | fields)

    def _payload(self, text: str, thinking: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
        extra: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if calls:
            extra["tool_calls"] = [self._call(call) for call in calls]
        if self._endpoint == "chat":
            return {"message": {"role": "assistant", "content": text} | extra}
        return {"response": text} | extra

    def _call(self, call: ToolCall) -> dict[str, Any]:
        self._calls += 1
        function = {"index": self._calls - 1, "name": call.name, "arguments": call.arguments}
        return {"id": call.id or new_call_id(), "function": function}

    def _end(self, done: Done) -> dict[str, Any]:
        usage = done.usage
        total_ns = time.perf_counter_ns() - self._started_ns
        fields: dict[str, Any] = {
            "done": True,
            "done_reason": done.reason,
            "total_duration": total_ns,
            # As in Ollama: everything before the prompt is read, that is loading and waiting for a slot.
            "load_duration": max(0, total_ns - usage.prompt_ns - usage.output_ns),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": usage.prompt_ns,
            "eval_count": usage.output_tokens,
            "eval_duration": usage.output_ns,
        }
        if self._endpoint == "generate" and not self._raw:
            fields["context"] = done.context
        return fields | last_words()
