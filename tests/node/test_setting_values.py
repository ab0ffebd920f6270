from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.setting_values import (
    Address,
    parse_address,
    parse_count,
    parse_duration,
    parse_peers,
    parse_size,
    parse_switch,
    parse_timeout,
    parse_wait,
    parse_words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Address()),
        ("1.2.3.4", Address(host="1.2.3.4")),
        ("1.2.3.4:1234", Address(host="1.2.3.4", port=1234)),
        (":1234", Address(host="0.0.0.0", port=1234)),
        ("0.0.0.0", Address(host="0.0.0.0")),
        ("::1", Address(host="::1")),
        ("[::1]", Address(host="::1")),
        ("[::1]:1337", Address(host="::1", port=1337)),
        ("example.com", Address(host="example.com")),
        ("example.com:", Address(host="example.com")),
        ("example.com:0", Address(host="example.com", port=0)),
        ("http://1.2.3.4", Address(host="1.2.3.4", port=80)),
        ("https://1.2.3.4", Address(scheme="https", host="1.2.3.4", port=443)),
        ("https://1.2.3.4:8080/ollama/", Address(scheme="https", host="1.2.3.4", port=8080, path="/ollama")),
    ],
)
def test_an_address_is_read_as_ollama_reads_its_host(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["ftp://x", "a:b:c", "host:66000", "host:-1", "ho st", "a]b", "x:１２", "-x"])
def test_an_address_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0:1", "http://127.0.0.1:1"),
        ("[::]:1", "http://[::1]:1"),
        ("http://box:9/x", "http://box:9/x"),
    ],
)
def test_a_client_reaches_a_listener_on_all_interfaces_by_loopback(host: str, url: str) -> None:
    assert parse_address(host).url == url


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5m", 300.0),
        ("24h", 86400.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        (".5s", 0.5),
        ("0", 0.0),
        ("300", 300.0),
        (300, 300.0),
        (0.5, 0.5),
        ("-1", math.inf),
        ("-1s", math.inf),
        (-1, math.inf),
    ],
)
def test_a_duration_is_seconds_or_gos_notation_and_negative_means_for_ever(value: object, seconds: float) -> None:
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "5 m", "m", "5x", "1h2", "--1s", True, None, "1e3", "nan", float("nan")])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        parse_duration(value)


@pytest.mark.parametrize("value", [-1, "61m", "nan"])
def test_a_wait_has_an_end(value: object) -> None:
    assert parse_wait("90s") == 90.0
    with pytest.raises(ValueError):
        parse_wait(value)


def test_a_timeout_of_zero_is_none() -> None:
    assert parse_timeout("0") == math.inf
    assert parse_timeout("-5s") == math.inf
    assert parse_timeout("2s") == 2.0


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59))
def test_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == pytest.approx(hours * 3600 + minutes * 60 + seconds)


@pytest.mark.parametrize(
    ("value", "size"),
    [(5, 5), ("5", 5), ("1KiB", 1024), ("2 MB", 2_000_000), ("1.5GiB", 3 << 29), ("3g", 3 * 10**9), ("7B", 7)],
)
def test_a_size_is_bytes_with_an_optional_unit(value: object, size: int) -> None:
    assert parse_size(value) == size


@given(st.one_of(st.text(max_size=40), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text())))
def test_no_parser_fails_in_any_other_way_than_by_refusing(value: object) -> None:
    for parse in (parse_address, parse_duration, parse_size, parse_count, parse_switch, parse_words):
        try:
            parse(value)
        except (ValueError, OverflowError):
            continue


@pytest.mark.parametrize(("value", "on"), [("1", True), ("TRUE", True), (False, False), ("off", False), (0, False)])
def test_a_switch_is_yes_or_no(value: object, on: bool) -> None:
    assert parse_switch(value) is on


def test_static_peers_are_hosts_with_or_without_a_port() -> None:
    peers = ("desk", "10.0.0.1:11499", "::1", "[fe80::2]:1")
    assert parse_peers(",".join(peers)) == peers
    for text in ("10.0.0.1:99999", "desk:0", ":8080", "a b", "desk:x"):
        with pytest.raises(ValueError):
            parse_peers(text)


def test_words_come_as_an_array_or_with_commas() -> None:
    assert parse_words(" a, b,,") == ("a", "b") == parse_words(["a", " b "])
