from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.client import BadAnswer, get_status, stream_chat, turn

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":" ba"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":" \xc3\xa9"}}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
async def test_events_are_read_however_the_server_cuts_them_into_chunks(size: int) -> None:
    async with answering(HEAD + chunked(BODY, size)) as port:
        trace = await stream_chat(port, "m", [turn("user", "x")], 2)
    assert (trace.text, trace.output_tokens, trace.prompt_tokens) == (" ba é", 2, 7)
    assert len(trace.arrivals_s) == 2
    assert trace.begun.is_set()


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 503 Busy\r\nContent-Length: 14\r\n\r\n{"error":"no"}',
        HEAD + chunked(BODY, 64)[:100],
        HEAD + chunked(b"data: {broken\n\n", 64),
        HEAD + b"zz\r\n",
        b"",
    ],
    ids=["status", "cut", "json", "chunk size", "nothing"],
)
async def test_an_answer_that_cannot_be_measured_is_an_error(answer: bytes) -> None:
    async with answering(answer) as port:
        with pytest.raises(BadAnswer):
            await stream_chat(port, "m", [turn("user", "x")], 2)


async def test_another_number_of_tokens_is_an_error() -> None:
    async with answering(HEAD + chunked(BODY, 64)) as port:
        with pytest.raises(BadAnswer, match="2 tokens instead of 3"):
            await stream_chat(port, "m", [turn("user", "x")], 3)


async def test_the_status_of_nothing_is_zero() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        assert await get_status(port, "/") == 200
    assert await get_status(port, "/") == 0
