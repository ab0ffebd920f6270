from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.errors import UsageError
from cli.text import (
    cell,
    go_duration,
    human_bytes,
    human_duration,
    human_number,
    human_time,
    parse_duration,
    parse_time,
    printable,
    render_table,
    text_width,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_sizes_are_decimal_with_one_digit_below_ten() -> None:
    sizes = [0, 999, 1000, 8_249_999, 9_000_000, 10_500_000, 4_661_224_676, 39_969_745_349, 2 * 10**12]
    assert [human_bytes(size) for size in sizes] == [
        "0 B", "999 B", "1 KB", "8.2 MB", "9 MB", "10 MB", "4.7 GB", "39 GB", "2 TB",
    ]  # fmt: skip


def test_parameter_counts_keep_the_digits_that_ollama_shows() -> None:
    counts = [7, 1300, 137_000_000, 4_112_384, 7_000_000_000, 8_030_261_312]
    assert [human_number(count) for count in counts] == ["7", "1K", "137M", "4.11M", "7B", "8.0B"]


def test_ages_grow_coarser_with_distance() -> None:
    minute, hour, day = 60, 3600, 86400
    lengths = [0.4, 1, 59, minute, 119, 5 * minute, hour, 47 * hour, 3 * day, 15 * day, 70 * day, 800 * day]
    assert [human_duration(length) for length in lengths] == [
        "Less than a second", "1 second", "59 seconds", "About a minute", "About a minute", "5 minutes",
        "About an hour", "47 hours", "3 days", "2 weeks", "2 months", "2 years",
    ]  # fmt: skip


def test_a_time_is_told_from_now() -> None:
    assert human_time(NOW - timedelta(hours=2), NOW) == "2 hours ago"
    assert human_time(NOW + timedelta(minutes=4, seconds=30), NOW) == "4 minutes from now"
    assert human_time(NOW + timedelta(days=365 * 100), NOW) == "Forever"
    assert human_time(parse_time("0001-01-01T00:00:00Z"), NOW) == "Never"
    assert human_time(None, NOW) == "Never"


def test_times_with_nine_decimals_and_any_offset_are_read() -> None:
    assert parse_time("2026-03-01T13:00:00.123456789+01:00") == NOW.replace(microsecond=123456)
    assert parse_time("yesterday") is None
    assert parse_time(7) is None


@given(st.datetimes(min_value=datetime(2, 1, 1), timezones=st.just(UTC)))
def test_every_time_is_read_back_and_told(moment: datetime) -> None:
    assert parse_time(moment.isoformat().replace("+00:00", "Z")) == moment
    assert human_time(moment, NOW)


def test_durations_read_like_gos() -> None:
    durations = [0, 999, 1500, 812_345, 4_000_000, 1_500_000_000, 61_000_000_000, 3_661_250_000_000]
    assert [go_duration(duration) for duration in durations] == [
        "0s", "999ns", "1.5µs", "812.345µs", "4ms", "1.5s", "1m1s", "1h1m1.25s",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["5m", "1h30m", "-1s", "1.5h", "0"])
def test_go_durations_are_passed_on(text: str) -> None:
    assert parse_duration(text) == (0 if text == "0" else text)


def test_bare_seconds_are_a_number() -> None:
    assert parse_duration("-1") == -1


@pytest.mark.parametrize("text", ["", "soon", "5 m", "m", "--1s", "1h\x1b[31m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid duration"):
        parse_duration(text)


@given(st.text())
def test_nothing_a_terminal_obeys_is_printable(text: str) -> None:
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in printable(text))
    assert len(cell(text).splitlines()) <= 1


@given(st.text())
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    if text.isprintable():
        assert printable(text) == text


def test_pieces_of_an_escape_sequence_are_as_harmless_as_the_whole() -> None:
    assert printable("a\x1b") + printable("[31mb\x9b2J") == "a[31mb2J"


def test_tables_align_by_what_the_eye_sees() -> None:
    table = render_table(("NAME", "SIZE"), [("模型:latest", "1 B"), ("e\u0301", "22 GB"), ("x\x1b[2J\ny", "3 B")])
    assert table == "NAME           SIZE\n模型:latest    1 B\ne\u0301              22 GB\nx[2Jy          3 B\n"
    assert text_width("模型") == 4
