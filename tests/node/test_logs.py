"""Lines of the log: as text, one for each call whatever it holds; as JSON, with the values kept as they were."""

from __future__ import annotations

import ast
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from node.logs import OWN_KEYS, JsonFormatter, TextFormatter, _words, begin_logging, log_event

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "cli", "coordinator", "node", "registry")
LEVELS = {"debug", "info", "warning", "error", "exception"}


def line(message: object, *args: object, **extra: Any) -> dict[str, Any]:
    record = logging.LogRecord("a.b", logging.INFO, "f.py", 1, message, args, extra.get("exc_info"))
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    assert found.pop("time").endswith("+00:00")
    assert (found.pop("level"), found.pop("logger")) == ("info", "a.b")
    return found


@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [
        ("stopped", (), {"event": "stopped"}),
        ("lease granted node=%s ttl_s=%.0f", ("n1", 2.5), {"event": "lease granted", "node": "n1", "ttl_s": 2.5}),
        ("runner %d: %s", (7, "ends"), {"event": "runner 7: ends"}),
        (
            "model=%s failed: %s; trying layers=%d",
            ("m", "x=1", 3),
            {"event": "failed: x=1; trying", "model": "m", "layers": 3},
        ),
        ("loaded layers=%d/%d in=%s", (3, 4, None), {"event": "loaded", "layers": "3/4", "in": None}),
        ('route why="%s" node=%s', ("a; b=2", "n"), {"event": "route", "why": "a; b=2", "node": "n"}),
        ("twice a=%s a=%s", (1, 2), {"event": "twice a=2", "a": 1}),
        ("path=%s is=%s", (Path("/x"), True), {"event": "", "path": "/x", "is": True}),
        ("speed=%s", (math.inf,), {"event": "", "speed": None}),
        ("as it is: 100% of a=b", (), {"event": "as it is: 100% of a=b"}),
    ],
)
def test_words_become_the_event_and_pairs_become_fields(
    message: str, args: tuple[object, ...], expected: dict[str, object]
) -> None:
    assert line(message, *args) == expected


def test_text_of_others_and_tracebacks_fit_into_one_line_too() -> None:
    assert line("two\nlines") == {"event": "two\nlines"}
    assert line("%(a)s", {"a": 1}) == {"event": "1"}
    assert line(ValueError("odd")) == {"event": "odd"}
    try:
        raise ValueError("why")
    except ValueError:
        found = line("broke node=%s", "n", exc_info=sys.exc_info())
    assert found["traceback"].endswith("ValueError: why")
    assert (found["event"], found["node"]) == ("broke", "n")


def test_an_event_reads_well_as_text_and_keeps_its_values_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        for form in ("text", "json"):
            begin_logging("info", form)  # type: ignore[arg-type]
            log_event(logging.getLogger("x"), logging.INFO, "answered", status=200, route="a; total=1.0ms", model="m")
            log_event(logging.getLogger("x"), logging.DEBUG, "unseen")
        text, obj = capsys.readouterr().err.splitlines()
    finally:
        root.handlers, root.level = handlers, level
    assert text.endswith('INFO x answered status=200 route="a; total=1.0ms" model=m')
    assert json.loads(obj) | {"time": ""} == {
        "time": "",
        "level": "info",
        "logger": "x",
        "event": "answered",
        "status": 200,
        "route": "a; total=1.0ms",
        "model": "m",
    }


FORGED = "x\r\n2026-01-01T00:00:00.000 INFO api.serve stopped \x1b[2J\u2028\u202e\x9b\udcff"


def test_a_strangers_text_can_not_write_a_line_of_its_own_nor_steer_a_terminal() -> None:
    record = logging.LogRecord("a.b", logging.INFO, "f.py", 1, "joined name=%s", (FORGED,), None)
    text = TextFormatter().format(record)
    assert text.isprintable()
    assert text.endswith(
        r" INFO a.b joined name=x\r\n2026-01-01T00:00:00.000 INFO api.serve stopped \x1b[2J\u2028\u202e\x9b\udcff"
    )
    record.msg = "größer 日本 joined name=%s"
    assert "größer 日本" in TextFormatter().format(record)


def test_neither_can_the_text_of_an_error_in_a_traceback() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, "f.py", 1, "broke", (), sys.exc_info())
    first, *below = TextFormatter().format(record).split("\n")
    assert first.endswith(" ERROR a.b broke")
    assert below[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") and line.isprintable() for line in below)
    assert any("api.serve stopped" in line for line in below)


def test_no_call_in_the_code_uses_a_key_twice_or_one_that_every_line_has() -> None:
    calls = 0
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(ast.Attribute(ast.Name("log"), level), [ast.Constant(str(message)), *args]):
                    if level not in LEVELS:
                        continue
                    calls += 1
                    words = _words(message)
                    keys = {key for _, key, _ in words}
                    assert not keys & set(OWN_KEYS), (path, message)
                    assert sum(specs for _, _, specs in words) == len(args), (path, message)
    assert calls > 100
