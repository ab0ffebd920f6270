"""A lean client of `/v1/chat/completions`: the same few lines of parsing for every server, and exact arrival times.

It shares the processor with what it measures, so it does next to nothing per chunk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

STREAM_LIMIT_S = 300.0
MAX_CHUNK_BYTES = 1 << 20


class BadAnswer(Exception):
    """A server answered something that can't be measured; the message quotes it."""


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    completion_tokens: int
    prompt_tokens: int
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


@dataclass(slots=True)
class Trace:
    """When a request was sent and when each piece of its text arrived, in seconds of one monotonic clock."""

    sent_s: float
    arrivals_s: list[float] = field(default_factory=list)
    text: str = ""
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def first_token_s(self) -> float:
        """Seconds from the request to its first text."""
        return self.arrivals_s[0] - self.sent_s

    @property
    def finished_s(self) -> float:
        """When the last text arrived."""
        return self.arrivals_s[-1]

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between neighbouring pieces of text."""
        return [later - earlier for earlier, later in pairwise(self.arrivals_s)]


def turn(role: str, content: str) -> dict[str, str]:
    """A message of a conversation."""
    return {"role": role, "content": content}


async def stream_chat(
    port: int, model: str, messages: Sequence[dict[str, str]], output_tokens: int, trace: Trace | None = None
) -> Trace:
    """Stream one answer of exactly `output_tokens` tokens, chosen greedily.

    A `trace` that is passed in fills up while the answer arrives, so that others can watch it.
    Raises: BadAnswer: another status, another number of tokens, broken framing, or no end in time.
    """
    body = msgspec.json.encode(
        {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": output_tokens,
        }
    )
    trace = trace or Trace(0.0)
    trace.sent_s = time.perf_counter()
    pieces: list[str] = []
    try:
        async with asyncio.timeout(STREAM_LIMIT_S):
            async for data in _post_for_events(port, "/v1/chat/completions", body):
                chunk = _decode_chunk(data)
                if chunk.choices and (content := chunk.choices[0].delta.content):
                    trace.arrivals_s.append(time.perf_counter())
                    pieces.append(content)
                    trace.begun.set()
                if chunk.usage is not None:
                    trace.output_tokens = chunk.usage.completion_tokens
                    trace.prompt_tokens = chunk.usage.prompt_tokens
                    if chunk.usage.prompt_tokens_details is not None:
                        trace.cached_tokens = chunk.usage.prompt_tokens_details.cached_tokens
    except (OSError, EOFError, ValueError) as error:  # a timeout is an OSError, bad JSON a ValueError
        raise BadAnswer(f"port {port}: {error!r}") from error
    trace.text = "".join(pieces)
    if trace.output_tokens != output_tokens or not trace.arrivals_s:
        raise BadAnswer(f"port {port}: {trace.output_tokens} tokens instead of {output_tokens}")
    return trace


async def get_status(port: int, path: str) -> int:
    """The status of a GET; 0 while nothing answers there."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        status = await reader.readline()
        return int(status.split()[1]) if status else 0
    except OSError:
        return 0
    finally:
        writer.close()


async def _post_for_events(port: int, path: str, body: bytes) -> AsyncIterator[bytes]:
    """Post JSON and yield the payload of each server-sent event, without the closing `[DONE]`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MAX_CHUNK_BYTES)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        writer.write(head.encode() + body)
        status = await reader.readline()
        headers = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in status or b"transfer-encoding: chunked" not in headers:
            raise BadAnswer(f"port {port}: {status!r} {(await reader.read(2000))!r}")
        rest = b""
        while length := int(await reader.readline(), 16):
            rest += await reader.readexactly(length)
            await reader.readexactly(2)
            *events, rest = rest.split(b"\n\n")
            for event in events:
                if event.startswith(b"data: ") and event != b"data: [DONE]":
                    yield event[6:]
    finally:
        writer.close()
