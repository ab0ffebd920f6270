"""The verb show: one part of a model's description as it is, or all of it as tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from cli.client import Client
from cli.fields import list_of, object_of, text_of
from cli.models import find_model
from cli.text import human_number, printable, render_table

Part = Literal["license", "modelfile", "parameters", "system", "template"]
HEAD_LINES = 2
ARRAY_CHARS = 10

Row = Sequence[str]


def show_model(client: Client, name: str, part: Part | None, *, verbose: bool) -> None:
    """Print a model's description, or one part of it."""
    shown = find_model(client, name, verbose=verbose)
    if part is None:
        sys.stdout.write(describe(shown, verbose=verbose))
        return
    # Ollama ends these three, and not the others, with a line break; scripts that save a part rely on it.
    line_end = "\n" if part in ("license", "modelfile", "parameters") else ""
    sys.stdout.write(safe(text_of(shown, part)) + line_end)


def safe(text: str) -> str:
    """Text of a model: without what a terminal would obey if it goes to one, as it is if not."""
    return printable(text) if sys.stdout.isatty() else text


def describe(shown: dict[str, Any], *, verbose: bool) -> str:
    """The tables of a model's description; with `verbose` all metadata and tensors too."""
    info, projector = object_of(shown, "model_info"), object_of(shown, "projector_info")
    sections: list[tuple[str, Iterable[Row]]] = [
        ("Model", _model_rows(shown, info)),
        ("Capabilities", ((str(name),) for name in list_of(shown, "capabilities"))),
        ("Projector", _projector_rows(projector)),
        ("Parameters", (line.split(maxsplit=1) for line in text_of(shown, "parameters").splitlines() if line.strip())),
    ]
    if verbose:
        sections.append(("Metadata", ((key, value_text(info[key])) for key in sorted(info))))
        sections.append(("Tensors", map(_tensor_row, list_of(shown, "tensors"))))
    sections.append(("System", _head(text_of(shown, "system"))))
    sections.append(("License", _head(text_of(shown, "license"))))
    tables = [(title, render_table((), [("", *row) for row in rows])) for title, rows in sections]
    return "".join(f"  {title}\n{table}\n" for title, table in tables if table)


def value_text(value: object) -> str:
    """A metadata value: an array by its first items and how many more there are."""
    if not isinstance(value, list):
        return value if isinstance(value, str) else json.dumps(value)
    items, shown, width = [str(item) for item in value], 0, 1
    for item in items:
        width += len(item) + (2 if shown else 0)
        if width > ARRAY_CHARS and shown:
            break
        shown += 1
    more = f" ...+{len(items) - shown} more" if shown < len(items) else ""
    return f"[{' '.join(items[:shown])}{more}]"


def _model_rows(shown: dict[str, Any], info: dict[str, Any]) -> list[Row]:
    details = object_of(shown, "details")
    architecture = text_of(info, "general.architecture") or text_of(details, "family")
    size = text_of(details, "parameter_size")
    if not size and isinstance(count := info.get("general.parameter_count"), int):
        size = human_number(count)
    rows = [("architecture", architecture), ("parameters", size)]
    for label in ("context length", "embedding length"):
        count = info.get(f"{architecture}.{label.replace(' ', '_')}")
        rows.append((label, str(count) if isinstance(count, int) else ""))
    rows += [("quantization", text_of(details, "quantization_level")), ("requires", text_of(shown, "requires"))]
    return [row for row in rows if row[1]]


def _projector_rows(projector: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    architecture = text_of(projector, "general.architecture")
    if architecture:
        rows.append(("architecture", architecture))
    if isinstance(count := projector.get("general.parameter_count"), int):
        rows.append(("parameters", human_number(count)))
    for label, suffix in (("embedding length", "embedding_length"), ("dimensions", "projection_dim")):
        values = (projector.get(f"{architecture}.{sense}.{suffix}") for sense in ("vision", "audio"))
        rows += [(label, str(value)) for value in values if isinstance(value, int)][:1]
    return rows


def _tensor_row(tensor: object) -> Row:
    fields = tensor if isinstance(tensor, dict) else {}
    shape = " ".join(map(str, list_of(fields, "shape")))
    return text_of(fields, "name"), text_of(fields, "type"), f"[{shape}]"


def _head(text: str) -> list[Row]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line,) for line in (lines if len(lines) <= HEAD_LINES else [*lines[:HEAD_LINES], "..."])]
