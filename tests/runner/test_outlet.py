from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.jobs import Delta, Done, Event, ToolCall, Usage
from node.runner.inlet import FrameTooLong, read_request
from node.runner.outlet import DaemonGone, Outlet, merge_deltas
from node.runner.protocol import MAX_FRAME_BYTES, Cancel, Events, decode_reply, frame

CALL = ToolCall(name="f", arguments={})
deltas = st.builds(
    Delta,
    job=st.sampled_from("ab"),
    text=st.sampled_from(["", "t"]),
    thinking=st.sampled_from(["", "h"]),
    tool_calls=st.sampled_from([(), (CALL,)]),
    tokens=st.tuples(st.integers(0, 9)),
)
ends = st.builds(Done, job=st.sampled_from("ab"), reason=st.just("stop"), usage=st.just(Usage()))


def shown(events: list[Event], job: str) -> list[object]:
    """What a reader of one job sees, in order: a delta's thinking, then text, then calls."""
    seen: list[object] = []
    for event in events:
        if event.job == job:
            if isinstance(event, Delta):
                seen += [("h", c) for c in event.thinking] + [("t", c) for c in event.text] + list(event.tool_calls)
            else:
                seen.append(event)
    return seen


@given(st.lists(st.one_of(deltas, ends), max_size=20))
def test_merging_changes_nothing_a_job_can_see(events: list[Event]) -> None:
    merged = merge_deltas(events)
    for job in "ab":
        assert shown(merged, job) == shown(events, job)
        tokens = [[t for e in es if isinstance(e, Delta) and e.job == job for t in e.tokens] for es in (merged, events)]
        assert tokens[0] == tokens[1]


def test_deltas_of_several_steps_become_one_for_each_job() -> None:
    step = [Delta(job="a", text="x", tokens=(1,)), Delta(job="b", text="y", tokens=(2,))]
    assert merge_deltas(step * 3) == [
        Delta(job="a", text="xxx", tokens=(1, 1, 1)),
        Delta(job="b", text="yyy", tokens=(2, 2, 2)),
    ]


def test_what_the_socket_does_not_take_follows_when_it_is_read() -> None:
    ours, theirs = socket.socketpair()
    outlet = Outlet(ours)
    texts = [f"{i:05}" * 200 for i in range(700)]  # far more than a socket holds, less than makes senders wait
    for i, text in enumerate(texts):
        outlet.send([Delta(job="a", text=text, tokens=(i,))])
    outlet.send([Done(job="a", reason="stop", usage=Usage())])
    theirs.settimeout(10)
    reader, events = theirs.makefile("rb"), list[Event]()
    while not (events and isinstance(events[-1], Done)):
        reply = decode_reply(reader.read(int.from_bytes(reader.read(4), "little")))
        assert isinstance(reply, Events)
        events += reply.events
    received = [e for e in events if isinstance(e, Delta)]
    assert "".join(d.text for d in received) == "".join(texts)
    assert [t for d in received for t in d.tokens] == list(range(700))
    assert len(received) < 700


def test_writing_to_a_daemon_that_is_gone_says_so() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(DaemonGone):
        Outlet(ours).send([Done(job="a", reason="stop", usage=Usage())])


def test_requests_are_read_whole_until_the_socket_closes() -> None:
    ours, theirs = socket.socketpair()
    sent = frame(Cancel("a")) + frame(Cancel("b"))
    theirs.sendall(sent + sent[:7])
    theirs.close()
    assert [read_request(ours) for _ in range(3)] == [Cancel("a"), Cancel("b"), None]


def test_a_frame_longer_than_any_request_is_refused() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall((MAX_FRAME_BYTES + 1).to_bytes(4, "little"))
    with pytest.raises(FrameTooLong):
        read_request(ours)
