"""The verb create: a Modelfile and the files it names become a model of the node.

The Modelfile is read and the files are hashed on this machine; the node is sent only the blobs it lacks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.bars import ProgressBars
from cli.client import Client
from cli.errors import CommandError, ServerError
from cli.fields import count_of, text_of
from cli.text import cell
from registry import Modelfile, ModelfileError, ModelName, Recipe

DEFAULT_MODELFILE = "Modelfile"
HASH_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine that becomes part of the model; `role` is its field in the request."""

    path: Path
    role: str


@dataclass(frozen=True, slots=True)
class CreatePlan:
    """A request but for the digests of its files."""

    body: dict[str, Any]
    files: tuple[LocalFile, ...]


def create_model(client: Client, name: str, modelfile: Path | None) -> None:
    """Create `name` from a Modelfile (None: ./Modelfile). Raises CommandError: with the line that is wrong in it."""
    path = modelfile or Path(DEFAULT_MODELFILE)
    try:
        plan = plan_request(name, Modelfile.parse(path.read_bytes()), path.absolute().parent)
    except FileNotFoundError as error:
        raise CommandError(f"specified Modelfile wasn't found: {path}") from error
    except OSError as error:
        raise CommandError(f"can't read {path}: {error.strerror}") from error
    except ModelfileError as error:
        raise CommandError(f"{path}:{error.line}: {error.message}" if error.line else f"{path}: {error}") from error
    with ProgressBars() as bars:
        body = plan.body | _upload(client, plan.files, bars)
    with ProgressBars() as bars:
        arrived: dict[str, int] = {}
        advance = {}
        for event in client.stream("/api/create", body):
            # Steps that count bytes get a bar each; the others are named.
            if (digest := text_of(event, "digest")) and (total := count_of(event, "total")):
                if digest not in advance:
                    advance[digest] = bars.bar(text_of(event, "status") or digest, total)
                completed = count_of(event, "completed")
                advance[digest](completed - arrived.get(digest, 0))
                arrived[digest] = completed
            else:
                bars.step(text_of(event, "status"))


def plan_request(name: str, modelfile: Modelfile, folder: Path) -> CreatePlan:
    """What a Modelfile asks for; relative paths start at `folder`, where the Modelfile is. Raises: ModelfileError."""
    recipe = Recipe.from_modelfile(modelfile, folder)
    wanted: dict[str, Any] = {
        "from": str(recipe.source) if isinstance(recipe.source, ModelName) else None,
        "template": recipe.template,
        "system": recipe.system,
        "parameters": recipe.parameters,
        "license": recipe.licenses,
        "messages": [{"role": turn.role, "content": turn.content} for turn in recipe.messages],
        "requires": recipe.requires,
        "renderer": recipe.renderer,
        "parser": recipe.parser,
    }
    body = {"model": name} | {field: value for field, value in wanted.items() if value}
    weights = () if isinstance(recipe.source, ModelName) else recipe.source
    files = [(path, "files") for path in weights] + [(path, "adapters") for path in recipe.adapters]
    return CreatePlan(body, tuple(LocalFile(Path(path), role) for path, role in files))


def _upload(client: Client, files: tuple[LocalFile, ...], bars: ProgressBars) -> dict[str, dict[str, str]]:
    """Bring every file to the node; returns the request's maps from file name to digest, by role."""
    maps: dict[str, dict[str, str]] = {}
    for file in files:
        names = maps.setdefault(file.role, {})
        unique = file.path.name if file.path.name not in names else f"{len(names)}-{file.path.name}"
        try:
            names[unique] = _upload_file(client, file.path, bars)
        except OSError as error:
            raise CommandError(f"can't read {file.path}: {error.strerror}") from error
    return maps


def _upload_file(client: Client, path: Path, bars: ProgressBars) -> str:
    """Send one file unless the node has it; returns its digest. Raises OSError, CommandError."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        advance, hasher = bars.bar(f"reading {path.name}", size_bytes), hashlib.sha256()
        while chunk := file.read(HASH_CHUNK_BYTES):
            hasher.update(chunk)
            advance(len(chunk))
        digest = f"sha256:{hasher.hexdigest()}"
        if not client.has_blob(digest):
            file.seek(0)
            try:
                client.upload_blob(digest, file, size_bytes, bars.bar(f"copying {path.name}", size_bytes))
            except ServerError as error:
                raise ServerError(error.status, f"could not copy {cell(path.name)}: {error}") from error
    return digest
