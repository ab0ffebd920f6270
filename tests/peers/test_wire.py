"""Frames between daemons: whole again however they are cut, and never trusted."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import NodeError, QueueFull
from node.jobs import Delta
from node.peers import MemberRecord
from node.peers.errors import ModelNotThere, PeerLost
from node.peers.wire import (
    Down,
    Fault,
    Forget,
    FrameReader,
    Nonsense,
    decode_as,
    decode_down,
    decode_up,
    error_of,
    fault_of,
    frame,
)


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), max_size=30))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(len(body).to_bytes(4, "little") + body for body in bodies)
    reader, found, at = FrameReader(), [], 0
    for size in [*cuts, len(stream) + 1]:
        found += list(reader.feed(stream[at : at + size]))
        at += size
    assert found == bodies


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    reader = FrameReader(limit_bytes=100)
    with pytest.raises(Nonsense):
        list(reader.feed((101).to_bytes(4, "little")))


def test_what_is_sent_is_what_is_read() -> None:
    downs = (Down(1, Delta(job="j", text="ä", tokens=(1, 2))), Down(7, Fault("Closing")))
    (body,) = FrameReader().feed(frame(list(downs)))
    assert decode_down(body) == downs
    (body,) = FrameReader().feed(frame(Forget(3)))
    assert decode_up(body) == Forget(3)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_as_nonsense(data: bytes) -> None:
    for decode in (decode_up, decode_down):
        with suppress(Nonsense):
            decode(data)


@pytest.mark.parametrize("data", [b"\x81\xa4type\xa1\xff", b"\x81\xa3foo" + b"\x91" * 100_000, b"\xc1", b""])
def test_bytes_that_break_a_decoder_are_nonsense_too(data: bytes) -> None:
    for decode in (decode_up, decode_down, partial(decode_as, str), partial(decode_as, MemberRecord)):
        with pytest.raises(Nonsense):
            decode(data)


fields = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
kinds = st.sampled_from(["QueueFull", "JobFailed", "Closing", "DoesNotFit", "ModelNotThere", "NoSuchError"])


@given(kinds | st.text(max_size=20), st.lists(fields, max_size=4))
def test_any_fault_becomes_an_error_that_can_be_shown(kind: str, values: list[Any]) -> None:
    error = error_of(Fault(kind, tuple(values)), "far")
    assert isinstance(error, NodeError)
    assert isinstance(str(error), str)


def test_errors_that_do_not_travel_as_themselves_keep_their_words() -> None:
    assert str(error_of(fault_of(ValueError("disk on fire")), "far")) == "disk on fire"
    assert isinstance(error_of(Fault("QueueFull", ("x",)), "far"), PeerLost)
    assert error_of(fault_of(QueueFull(3, 4)), "far").args == (3, 4)
    assert isinstance(error_of(Fault("ModelNotThere", ("m",)), "far"), ModelNotThere)
