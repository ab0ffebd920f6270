from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.discovery import Advert, UnreadableRecord
from node.discovery.record import MAX_RECORD_BYTES, SERVICE_TYPE, decode, dns_label, encode, txt_bytes
from node.identity import ClusterId, NodeId

HEX = "0123456789abcdef"
ADVERT = Advert(
    node=NodeId("00112233445566ff"),
    node_name="Küche",
    cluster=ClusterId("aabbccddeeff0011"),
    cluster_name="home",
    port=11435,
    fingerprint="ab" * 32,
    version="0.3.0",
    generation=7,
    head=True,
)


def on_the_wire(advert: Advert) -> dict[bytes, bytes | None]:
    return {key.encode(): value.encode() for key, value in encode(advert).items()}


@st.composite
def adverts(draw: st.DrawFn) -> Advert:
    name = st.text(st.characters(codec="utf-8"), max_size=80)
    return Advert(
        node=NodeId(draw(st.text(HEX, min_size=16, max_size=16))),
        node_name=draw(name),
        cluster=ClusterId(draw(st.text(HEX, min_size=16, max_size=16))),
        cluster_name=draw(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)),
        port=draw(st.integers(1, 65535)),
        fingerprint=draw(st.text(HEX, min_size=64, max_size=64)),
        version=draw(st.from_regex(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}(\.dev[0-9]{1,3})?", fullmatch=True)),
        generation=draw(st.integers(0, 1 << 53)),
        head=draw(st.booleans()),
    )


@given(adverts())
def test_a_record_fits_into_400_bytes_and_says_what_was_meant_whatever_the_names(advert: Advert) -> None:
    assert txt_bytes(encode(advert)) < MAX_RECORD_BYTES
    read = decode("x", advert.port, on_the_wire(advert))
    assert (read.node, read.cluster, read.cluster_name) == (advert.node, advert.cluster, advert.cluster_name)
    assert (read.port, read.fingerprint, read.generation) == (advert.port, advert.fingerprint, advert.generation)
    assert read.node_name.isprintable()


def test_a_record_is_read_back_as_it_was_written() -> None:
    assert decode("x", 11435, on_the_wire(ADVERT)) == ADVERT


def test_the_instance_name_is_readable_and_carries_the_node_id() -> None:
    assert ADVERT.instance == f"k-che-00112233.{SERVICE_TYPE}"


@pytest.mark.parametrize(("name", "label"), [("My Home!", "my-home"), ("..", "node"), ("a" * 90, "a" * 63)])
def test_a_label_is_made_of_any_name(name: str, label: str) -> None:
    assert dns_label(name) == label


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({b"v": b"2"}, "it is in format 2, this machine reads 1"),
        ({b"v": None}, "v is missing"),
        ({b"id": b"zz"}, "id is malformed"),
        ({b"id": b"00112233445566FF"}, "id is malformed"),
        ({b"fp": b"ab"}, "fp is malformed"),
        ({b"gen": b"-1"}, "gen is no number up to 9007199254740992"),
        ({b"gen": b"9" * 200}, "gen is no number up to 9007199254740992"),
        ({b"gen": "٣".encode()}, "gen is no number up to 9007199254740992"),
        ({b"head": b"2"}, "head is no number up to 1"),
        ({b"name": b"\xff"}, "name is not UTF-8"),
        ({b"name": b"\x1b[2J"}, "name is no name"),
        ({b"name": b""}, "name is no name"),
        ({b"ayni": b"0.3 0"}, "ayni is malformed"),
        ({b"more": b"x" * 2000}, "it is too long"),
    ],
)
def test_a_malformed_record_is_refused_with_its_reason(change: dict[bytes, bytes | None], reason: str) -> None:
    with pytest.raises(UnreadableRecord) as refused:
        decode("box", 11435, on_the_wire(ADVERT) | change)
    assert refused.value.reason == reason


@pytest.mark.parametrize("port", [None, 0, -1, 65536])
def test_a_record_without_a_port_is_refused(port: int | None) -> None:
    with pytest.raises(UnreadableRecord, match="names no port"):
        decode("box", port, on_the_wire(ADVERT))


def test_entries_of_a_newer_version_are_skipped() -> None:
    assert decode("x", 11435, on_the_wire(ADVERT) | {b"shiny": b"1"}) == ADVERT


@given(st.dictionaries(st.binary(max_size=8), st.none() | st.binary(max_size=80), max_size=12))
def test_any_bytes_are_read_or_refused(entries: dict[bytes, bytes | None]) -> None:
    with suppress(UnreadableRecord):
        assert decode("x", 11435, on_the_wire(ADVERT) | entries).node == ADVERT.node or b"id" in entries
