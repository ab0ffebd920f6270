"""What a new model is to be made of (`Recipe`), and how a Modelfile says it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from registry.digest import Digest
from registry.errors import InvalidModelName, ModelfileError, UnsupportedModel
from registry.gguf_facts import is_gguf
from registry.model import ChatTurn
from registry.modelfile import Modelfile
from registry.names import ModelName
from registry.parameters import ParameterValue, parse_parameters

# Files on this machine, or blobs already uploaded, by the file name they had.
Files: TypeAlias = Sequence[Path] | Mapping[str, Digest]

_VERSION: Final = re.compile(r"v?(\d+(?:\.\d+){0,2}(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to make a model: what it is made from, and what is to be different.

    Attributes:
        source: a stored model, or the GGUF files: the model and, if it has one, its projector.
        template, system, requires, renderer, parser: None or empty: as in the model it is made from.
        parameters: added to the source's; one given here replaces the source's.
        licenses: added to the source's. messages: replace the source's, unless there are none.
        quantize: refused, as quantising is not done here.
    """

    source: ModelName | Files
    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, ParameterValue] | None = None
    licenses: tuple[str, ...] = ()
    messages: tuple[ChatTurn, ...] = ()
    adapters: Files = ()
    requires: str | None = None
    renderer: str | None = None
    parser: str | None = None
    quantize: str = ""

    @classmethod
    def from_modelfile(cls, modelfile: Modelfile, base: Path, *, quantize: str = "") -> Recipe:
        """Read a Modelfile's meaning; relative paths count from `base`, `~` is this user's home.

        Raises: ModelfileError: FROM or ADAPTER names nothing usable, REQUIRES is no version. InvalidParameter.
            UnsupportedModel: DRAFT, or weights in another format than GGUF.
        """
        if modelfile.values("draft"):
            raise UnsupportedModel("DRAFT: draft models are not supported")
        return cls(
            source=_source(modelfile, base),
            template=_last(modelfile, "template"),
            system=_last(modelfile, "system"),
            parameters=parse_parameters(
                (command.key, command.value) for command in modelfile.commands if command.keyword == "parameter"
            ),
            licenses=modelfile.values("license"),
            messages=tuple(
                ChatTurn(command.key, command.value) for command in modelfile.commands if command.keyword == "message"
            ),
            adapters=_adapters(modelfile, base),
            requires=_requires(modelfile),
            renderer=_last(modelfile, "renderer"),
            parser=_last(modelfile, "parser"),
            quantize=quantize,
        )


def check_version(text: str) -> str:
    """A version as REQUIRES has it, without a leading v. Raises: UnsupportedModel."""
    if not (match := _VERSION.fullmatch(text)):
        raise UnsupportedModel("requires must be a valid version (such as 0.14.0)")
    return match[1]


def gguf_files(path: Path) -> tuple[Path, ...]:
    """The GGUF files that a path stands for: itself, or those in the folder.

    Raises: UnsupportedModel: there is none, only weights in another format. OSError.
    """
    if path.is_dir():
        candidates = sorted(path.glob("*.gguf")) or sorted(path.glob("*.bin"))
        if found := tuple(candidate for candidate in candidates if is_gguf(candidate)):
            return found
        if any(path.glob("*.safetensors")):
            raise UnsupportedModel(
                f"{path} holds safetensors weights; convert them to GGUF first (llama.cpp: convert_hf_to_gguf.py)"
            )
        raise UnsupportedModel(f"no GGUF file in {path}")
    if not is_gguf(path):
        raise UnsupportedModel(f"{path} is not in GGUF format")
    return (path,)


def _source(modelfile: Modelfile, base: Path) -> ModelName | tuple[Path, ...]:
    files: tuple[Path, ...] = ()
    names: list[ModelName] = []
    for command in modelfile.commands:
        if command.keyword != "from":
            continue
        path = _expand(command.value, base)
        if path.exists():
            files += gguf_files(path)
            continue
        try:
            names.append(ModelName.parse(command.value))
        except InvalidModelName:
            message = f"FROM {command.value}: no such file, and no model name either"
            raise ModelfileError(command.line, message) from None
    if names and (files or len(names) > 1):
        raise ModelfileError(0, "FROM: name one model, or files, but not both")
    return names[0] if names else files


def _adapters(modelfile: Modelfile, base: Path) -> tuple[Path, ...]:
    found: tuple[Path, ...] = ()
    for command in modelfile.commands:
        if command.keyword != "adapter":
            continue
        path = _expand(command.value, base)
        if not path.exists():
            raise ModelfileError(command.line, f"ADAPTER {command.value}: no such file")
        found += gguf_files(path)
    return found


def _requires(modelfile: Modelfile) -> str | None:
    for command in modelfile.commands:
        if command.keyword == "requires":
            try:
                return check_version(command.value)
            except UnsupportedModel as error:
                raise ModelfileError(command.line, str(error)) from None
    return None


def _last(modelfile: Modelfile, keyword: str) -> str | None:
    values = modelfile.values(keyword)
    return values[-1] if values else None


def _expand(text: str, base: Path) -> Path:
    try:
        return base / Path(text).expanduser()
    except RuntimeError:  # no such user
        return base / text
