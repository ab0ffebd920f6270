from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import RunnerLost, SlowReader
from node.jobs import Delta, Done, ToolCall, Usage
from node.supervisor.channel import JobChannel

DONE = Done(job="j", reason="stop", usage=Usage())


def text(words: str) -> Delta:
    return Delta(job="j", text=words, tokens=(len(words),))


async def test_deltas_that_piled_up_come_as_one_and_the_end_after_them() -> None:
    channel = JobChannel("j")
    assert all([channel.put(text("a")), channel.put(text("bc")), channel.put(DONE)])
    assert await channel.get() == Delta(job="j", text="abc", tokens=(1, 2))
    assert await channel.get() == DONE


async def test_a_reader_that_keeps_up_gets_every_delta_by_itself() -> None:
    channel = JobChannel("j")
    for word in "ab":
        channel.put(text(word))
        assert await channel.get() == text(word)


async def test_text_is_not_joined_with_thinking_that_came_after_it() -> None:
    channel = JobChannel("j")
    call = ToolCall(name="f", arguments={})
    deltas = [text("a"), Delta(job="j", thinking="b"), text("c"), Delta(job="j", tool_calls=(call,)), text("d")]
    for delta in deltas:
        channel.put(delta)
    assert await channel.get() == text("a")
    assert await channel.get() == Delta(job="j", thinking="b", text="c", tokens=(1,), tool_calls=(call,))
    assert await channel.get() == text("d")


async def test_a_reader_far_behind_loses_its_job_with_a_reason() -> None:
    channel = JobChannel("j", limit_bytes=1000)
    assert channel.put(text("x" * 500))
    assert not channel.put(text("x" * 500))
    assert channel.put(text("x" * 5000)), "the job is cancelled once, not with every event"
    with pytest.raises(SlowReader):
        await channel.get()


async def test_what_was_pending_comes_before_the_error() -> None:
    channel = JobChannel("j")
    channel.put(text("a"))
    channel.fail(RunnerLost("m", "killed"))
    assert await channel.get() == text("a")
    with pytest.raises(RunnerLost):
        await channel.get()


async def test_a_reader_that_waits_is_woken_by_the_error() -> None:
    channel = JobChannel("j")
    reading = asyncio.create_task(channel.get())
    await asyncio.sleep(0)
    channel.fail(RunnerLost("m", "killed"))
    with pytest.raises(RunnerLost):
        await reading


parts = st.builds(
    lambda thinking, words, token: Delta(job="j", thinking=thinking, text=words, tokens=(token,)),
    st.sampled_from(["", "t"]),
    st.sampled_from(["", "w"]),
    st.integers(0, 9),
)


@given(st.lists(parts, max_size=30))
def test_joining_neither_loses_nor_reorders_anything(deltas: list[Delta]) -> None:
    async def read() -> list[Delta]:
        channel = JobChannel("j")
        for delta in (*deltas, DONE):
            channel.put(delta)  # type: ignore[arg-type]
        got = []
        while isinstance(event := await channel.get(), Delta):
            got.append(event)
        return got

    got = asyncio.run(read())
    assert [t for d in got for t in d.tokens] == [t for d in deltas for t in d.tokens]
    assert "".join(d.thinking + d.text for d in got) == "".join(d.thinking + d.text for d in deltas)
