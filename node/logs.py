"""Lines of the log: as text for people, or as one JSON object each for programs. Both are made from the same calls.

A call such as `log.info("loaded model=%s took_s=%.1f", name, seconds)` is a line of text as it stands. As JSON its
words become `event`, and each `key=%s` a field with the value that was passed, a number as a number.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

TEXT_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s"
# What every object has; a field of the same name would hide it.
OWN_KEYS = ("time", "level", "logger", "event", "traceback")
_SPEC = re.compile(r"%[-#0 +]*\d*(?:\.\d+)?[sdrfgx]")
_PAIR = re.compile(r"(\w+)=(.+)")
# Their INFO lines say nothing that ours do not.
_CHATTY = ("asyncio", "uvicorn", "uvicorn.error")


def begin_logging(level: str, form: Literal["text", "json"]) -> None:
    """Log this process to stderr from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)


def one_line(text: str) -> str:
    """The text with every character that is not printable as Python writes it in a string."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def log_event(log: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Log an event with as many fields as there are."""
    if log.isEnabledFor(level):
        pairs = (f'{key}="%s"' if " " in str(value) else f"{key}=%s" for key, value in fields.items())
        log.log(level, " ".join((event, *pairs)), *fields.values())


class TextFormatter(logging.Formatter):
    """One line per call, whatever names of strangers are in it, and a traceback below where there is one."""

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        """The line, with what would end it or steer a terminal written as escapes."""
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the base class's name
        """The traceback, in which errors' texts can't pass for another line of the log."""
        return "\n".join(f"  {one_line(line)}" for line in super().formatException(ei).split("\n"))


class JsonFormatter(logging.Formatter):
    """One object per line: time (UTC), level, logger, event, the call's fields, and a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        event, fields = parts_of(record)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode({**fields, **line}, enc_hook=str).decode()


def parts_of(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """A record's event in words, and its fields."""
    args = record.args
    if not isinstance(record.msg, str) or not isinstance(args, tuple):
        return record.getMessage(), {}
    words: list[str] = []
    fields: dict[str, Any] = {}
    at = 0
    for word, key, specs in _words(record.msg):
        values, at = args[at : at + specs], at + specs
        if not key:
            words.append(word % values if specs else word.replace("%%", "%"))
        elif specs == 1 and _SPEC.fullmatch(word):
            fields[key] = _plain(values[0])
        else:
            fields[key] = word % values
    return " ".join(words), fields


@functools.lru_cache(maxsize=1024)
def _words(message: str) -> tuple[tuple[str, str, int], ...]:
    """The words of a format: text, key ("": it is none's value), how many arguments it takes."""
    found: list[tuple[str, str, int]] = []
    keys: set[str] = set()
    for word in message.split(" "):
        pair = _PAIR.fullmatch(word)
        specs = len(_SPEC.findall(word))
        if pair is None or not specs or pair[1] in keys:
            found.append((word, "", specs))
        else:
            keys.add(pair[1])
            found.append((pair[2].rstrip(",;:").strip('"'), pair[1], specs))
    return tuple(found)


def _plain(value: object) -> Any:
    """A value as JSON has it; what JSON has no word for, as text."""
    return value if value is None or isinstance(value, bool | int | float) else str(value)
