"""The verbs about models that ask the node one question: list, ps, cp, rm, stop."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from cli.client import Client
from cli.errors import CommandError, ServerError
from cli.fields import count_of, list_of, text_of
from cli.text import cell, human_bytes, human_time, json_text, parse_time, render_table

SHORT_ID_CHARS = 12
NOT_FOUND = 404


def list_models(client: Client, prefix: str = "", *, as_json: bool = False) -> None:
    """Print the models here whose names start with `prefix`, as the node sorts them."""
    models, now = _models(client.ask("GET", "/api/tags"), prefix), datetime.now(UTC)
    if as_json:
        sys.stdout.write(json_text({"models": models}))
        return
    rows = [
        (
            text_of(model, "name"),
            _short_id(model),
            human_bytes(count_of(model, "size")),
            human_time(parse_time(model.get("modified_at")), now),
        )
        for model in models
    ]
    sys.stdout.write(render_table(("NAME", "ID", "SIZE", "MODIFIED"), rows))


def list_running(client: Client, prefix: str = "", *, as_json: bool = False) -> None:
    """Print the models in memory whose names start with `prefix`; in a cluster, with the machine that has each."""
    running, now = _models(client.ask("GET", "/api/ps"), prefix), datetime.now(UTC)
    if as_json:
        sys.stdout.write(json_text({"models": running}))
        return
    rows = []
    nodes = any(text_of(model, "node") for model in running)
    for model in running:
        size, context = human_bytes(count_of(model, "size")), str(count_of(model, "context_length"))
        until = until_text(parse_time(model.get("expires_at")), now)
        row = (text_of(model, "name"), _short_id(model), size, processor(model), context, until)
        rows.append((*row, text_of(model, "node")) if nodes else row)
    header = ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL")
    sys.stdout.write(render_table((*header, "NODE") if nodes else header, rows))


def processor(model: dict[str, Any]) -> str:
    """Where a loaded model's bytes lie: "100% GPU", "100% CPU" or the two shares."""
    size, vram = count_of(model, "size"), count_of(model, "size_vram")
    if vram == 0:
        return "100% CPU"
    if vram == size:
        return "100% GPU"
    if vram > size:
        return "Unknown"
    cpu_percent = int((size - vram) / size * 100 + 0.5)
    return f"{cpu_percent}%/{100 - cpu_percent}% CPU/GPU"


def until_text(expires_at: datetime | None, now: datetime) -> str:
    """When a model leaves memory; one whose time is over is just leaving."""
    if expires_at is not None and expires_at.year > 1 and expires_at < now:
        return "Stopping..."
    return human_time(expires_at, now)


def copy_model(client: Client, source: str, destination: str) -> None:
    """Give a model a second name."""
    client.ask("POST", "/api/copy", {"source": source, "destination": destination})
    print(f"copied '{cell(source)}' to '{cell(destination)}'")


def remove_models(client: Client, names: list[str]) -> None:
    """Take each model out of memory and off the disk; the first that can't be removed ends it."""
    for name in names:
        try:
            unload(client, name)
        except ServerError as error:
            if error.status != NOT_FOUND:
                print(f"Warning: unable to stop model '{cell(name)}': {error}", file=sys.stderr)
        client.ask("DELETE", "/api/delete", {"model": name})
        print(f"deleted '{cell(name)}'")


def stop_model(client: Client, name: str) -> None:
    """Take a model out of memory."""
    try:
        unload(client, name)
    except ServerError as error:
        if error.status == NOT_FOUND:
            raise CommandError(f'couldn\'t find model "{cell(name)}" to stop') from error
        raise


def unload(client: Client, name: str) -> None:
    """Ask for a model to leave memory now. Raises ServerError."""
    client.ask("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})


def find_model(client: Client, name: str, *, verbose: bool = False) -> dict[str, Any]:
    """All that the node tells about a model. Raises ServerError: with advice where there is no such model."""
    try:
        return client.ask("POST", "/api/show", {"model": name, "verbose": verbose})
    except ServerError as error:
        if error.status == NOT_FOUND:
            hint = "See the models here with: ayni list. Make one from a GGUF file with: ayni create"
            raise ServerError(error.status, error.message, hint) from error
        raise


def _models(answer: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    models = [model for model in list_of(answer, "models") if isinstance(model, dict)]
    return [model for model in models if text_of(model, "name").lower().startswith(prefix.lower())]


def _short_id(model: dict[str, Any]) -> str:
    return text_of(model, "digest").removeprefix("sha256:")[:SHORT_ID_CHARS]
