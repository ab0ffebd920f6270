"""Numbers, ages and tables as people read them, the way the `ollama` command writes them. Pure."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from cli.errors import UsageError

# C0 but newline and tab, DEL, C1: what a terminal may obey instead of show.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# In a table cell, line breaks and the marks that reorder text can fake a neighbouring cell as well.
_CELL_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_SIZE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
_NS_PER_UNIT = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+)")
_LIFETIME = re.compile(r"(\d{1,9})([smhdw]?)")
_SECONDS_PER_UNIT = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_HOURS_PER_YEAR = 24 * 365


def printable(text: str) -> str:
    """`text` without anything a terminal would obey; line breaks and tabs stay. Works on any piece of a stream."""
    return _CONTROLS.sub("", text)


def cell(text: str) -> str:
    """`text` as one line that can't disturb a table."""
    return _CELL_CONTROLS.sub("", text)


def human_bytes(count: int) -> str:
    """Decimal units; one decimal below ten, where it is not zero: "8.2 MB", "39 GB", "512 B"."""
    for factor, unit in _SIZE_UNITS:
        if count >= factor:
            value = count / factor
            return f"{int(value)} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"
    return f"{count} B"


def human_number(count: int) -> str:
    """A number of parameters: "4.11M", "7B", "13K"."""
    for factor, unit, decimals in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= factor:
            return f"{count // factor}{unit}" if count % factor == 0 else f"{count / factor:.{decimals}f}{unit}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def human_duration(seconds: float) -> str:
    """A rough length of time: "Less than a second", "About a minute", "3 weeks"."""
    whole, minutes = int(seconds), int(seconds / 60)
    hours = int(seconds / 3600 + 0.5)
    steps = (
        (whole < 1, "Less than a second"),
        (whole == 1, "1 second"),
        (whole < 60, f"{whole} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 7 * 2, f"{hours // 24} days"),
        (hours < 24 * 30 * 2, f"{hours // 24 // 7} weeks"),
        (hours < _HOURS_PER_YEAR * 2, f"{hours // 24 // 30} months"),
    )
    return next((words for fits, words in steps if fits), f"{int(seconds / 3600) // _HOURS_PER_YEAR} years")


def human_time(moment: datetime | None, now: datetime) -> str:
    """How far `moment` is from `now`: "2 hours ago", "4 minutes from now"; "Forever" beyond 20 years ahead."""
    if moment is None or moment.year <= 1:
        return "Never"
    ahead_s = (moment - now).total_seconds()
    if ahead_s / 3600 / _HOURS_PER_YEAR > 20:
        return "Forever"
    return f"{human_duration(ahead_s)} from now" if ahead_s > 0 else f"{human_duration(-ahead_s)} ago"


def parse_time(text: object) -> datetime | None:
    """An RFC 3339 time of the API, of which Go writes up to nine decimals; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    except ValueError:
        return None
    return moment.astimezone() if moment.tzinfo is None and moment.year > 1 else moment


def parse_duration(text: str) -> str | int:
    """A keep-alive as the API takes it: a Go duration ("5m", "1h30m") stays text, bare seconds become a number.

    Raises: UsageError: neither.
    """
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if not _DURATION.fullmatch(text):
        raise UsageError(f"invalid duration '{cell(text)}' (write e.g. 30s, 5m, 1h30m, or -1 for always)")
    return text


def parse_lifetime(text: str) -> int:
    """Seconds: "15m", "30d", "1h30m", "900". Raises UsageError: anything else, and nothing at all."""
    parts = _LIFETIME.findall(text)
    seconds = sum(int(count) * _SECONDS_PER_UNIT[unit] for count, unit in parts)
    if "".join(count + unit for count, unit in parts) != text or not seconds:
        raise UsageError(f"invalid duration '{cell(text)}' (write e.g. 15m, 12h, 30d)")
    return seconds


def go_duration(nanoseconds: int) -> str:
    """Nanoseconds as Go prints a duration: "1.5s", "2m3.4s", "812.3µs", "0s"."""
    for unit in ("ns", "µs", "ms"):
        if nanoseconds < 1000 * _NS_PER_UNIT[unit]:
            return f"{_trim(nanoseconds, _NS_PER_UNIT[unit])}{unit}" if nanoseconds else "0s"
    minutes, rest_ns = divmod(nanoseconds, _NS_PER_UNIT["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_trim(rest_ns, _NS_PER_UNIT['s'])}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _trim(nanoseconds: int, unit_ns: int) -> str:
    """Exact decimal quotient without trailing zeros."""
    whole, rest = divmod(nanoseconds, unit_ns)
    decimals = f"{rest:0{len(str(unit_ns)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{decimals}" if decimals else str(whole)


def char_width(char: str) -> int:
    """Columns a terminal gives a character: 0 for marks that combine, 2 for wide ones, else 1."""
    if char < "\x7f":
        return 1
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def text_width(text: str) -> int:
    """Columns of a whole line."""
    return sum(map(char_width, text))


def json_text(answer: dict[str, Any]) -> str:
    """An answer for programs: indented, in ASCII, so that no terminal takes a part of it for a command."""
    return f"{json.dumps(answer, indent=2)}\n"


def render_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Left-aligned columns, four spaces apart, no rules; control characters removed. Rows may be of unequal length."""
    lines = [[cell(text) for text in row] for row in ([header, *rows] if header else rows)]
    columns = max((len(line) for line in lines), default=0)
    widths = [max((text_width(line[i]) for line in lines if i < len(line)), default=0) for i in range(columns)]
    table = ""
    for line in lines:
        padded = (text + " " * (width - text_width(text)) for text, width in zip(line, widths, strict=False))
        table += "    ".join(padded).rstrip() + "\n"
    return table
