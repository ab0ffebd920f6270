"""Streams say at their end that another node has gone on with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from api.native_answers import NativeAnswer
from api.openai_answers import ChatChoice, Envelope, TextChoice
from node.jobs import Done, Usage
from node.route_trace import ROUTE_TRACE, RouteTrace

END = Done(job="j", reason="stop", usage=Usage(prompt_tokens=1, output_tokens=1))
ENDS: dict[str, Callable[[], bytes]] = {
    "native": lambda: NativeAnswer("chat", "demo", started_ns=0).line(END),
    "chat": lambda: ChatChoice(Envelope("chat.completion", "demo", "fp", 1), 0).chunks(END),
    "text": lambda: TextChoice(Envelope("text_completion", "demo", "fp", 1), 0).chunks(END),
}


@pytest.fixture
def trace() -> Iterator[RouteTrace]:
    trace = RouteTrace(route="b; resident")
    token = ROUTE_TRACE.set(trace)
    yield trace
    ROUTE_TRACE.reset(token)


def last_object(data: bytes) -> Any:
    return json.loads(data.decode().strip().splitlines()[-1].removeprefix("data: "))


@pytest.mark.parametrize("shape", ENDS)
def test_a_stream_that_went_on_elsewhere_says_so_at_its_end(shape: str, trace: RouteTrace) -> None:
    assert "ayni" not in last_object(ENDS[shape]())
    trace.resumed = 2
    assert last_object(ENDS[shape]())["ayni"] == {"route": "b; resident", "resumed": 2}
