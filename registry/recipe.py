"""What a new model is to be made of (`Recipe`), and how a Modelfile says it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from registry.digest import Digest
from registry.errors import InvalidModelName, InvalidParameter, ModelfileError, UnsupportedModel
from registry.gguf_facts import is_gguf
from registry.model import ChatTurn
from registry.modelfile import Command, Modelfile
from registry.names import ModelName
from registry.parameters import ParameterValue, parse_parameters

# Files on this machine, or blobs already uploaded, by the file name they had.
Files: TypeAlias = Sequence[Path] | Mapping[str, Digest]

# What no model name starts with: a path, whether or not anything is there.
_PATH_STARTS: Final = ("/", "./", "../", "~")
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
    def from_modelfile(cls, modelfile: Modelfile, base: Path) -> Recipe:
        """Read a Modelfile's meaning; relative paths count from `base`, `~` is this user's home.

        Raises: ModelfileError, with the line: FROM or ADAPTER names nothing usable, a parameter that does not exist,
            REQUIRES is no version, or DRAFT, which is not supported.
        """
        source = _source(modelfile, base)
        adapters: tuple[Path, ...] = ()
        parameters: dict[str, ParameterValue] = {}
        requires = None
        for command in modelfile.commands:
            with _blaming(command):
                match command.keyword:
                    case "adapter":
                        adapters += _gguf_files(_expand(command.value, base))
                    case "parameter":
                        _add_parameter(parameters, command)
                    case "requires":
                        requires = check_version(command.value)
                    case "draft":
                        raise UnsupportedModel("DRAFT is not supported")
        return cls(
            source=source,
            template=_last(modelfile, "template"),
            system=_last(modelfile, "system"),
            parameters=parameters,
            licenses=modelfile.values("license"),
            messages=tuple(
                ChatTurn(command.key, command.value) for command in modelfile.commands if command.keyword == "message"
            ),
            adapters=adapters,
            requires=requires,
            renderer=_last(modelfile, "renderer"),
            parser=_last(modelfile, "parser"),
        )


def check_version(text: str) -> str:
    """A version as REQUIRES has it, without a leading v. Raises: UnsupportedModel."""
    if not (match := _VERSION.fullmatch(text)):
        raise UnsupportedModel("requires must be a valid version (such as 0.14.0)")
    return match[1]


@contextlib.contextmanager
def _blaming(command: Command) -> Iterator[None]:
    """Give an error the line of the command that caused it."""
    try:
        yield
    except (UnsupportedModel, InvalidParameter) as error:
        raise ModelfileError(command.line, str(error)) from None


def _gguf_files(path: Path) -> tuple[Path, ...]:
    """The GGUF files that a path stands for: itself, or those in the folder. Raises: UnsupportedModel."""
    if not path.exists():
        raise UnsupportedModel(f"no such file: {path}")
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
        with _blaming(command):
            if path.exists() or command.value.startswith(_PATH_STARTS) or command.value.lower().endswith(".gguf"):
                files += _gguf_files(path)
                continue
        try:
            names.append(ModelName.parse(command.value))
        except InvalidModelName:
            message = f"FROM {command.value}: no such file, and no model name either"
            raise ModelfileError(command.line, message) from None
    if names and (files or len(names) > 1):
        raise ModelfileError(0, "FROM: name one model, or files, but not both")
    return names[0] if names else files


def _add_parameter(parameters: dict[str, ParameterValue], command: Command) -> None:
    """Take one PARAMETER line; `stop` adds up, of the others the last counts."""
    for name, value in parse_parameters([(command.key, command.value)]).items():
        earlier = parameters.get(name)
        if isinstance(value, list) and isinstance(earlier, list):
            value = [*earlier, *value]
        parameters[name] = value


def _last(modelfile: Modelfile, keyword: str) -> str | None:
    values = modelfile.values(keyword)
    return values[-1] if values else None


def _expand(text: str, base: Path) -> Path:
    try:
        return base / Path(text).expanduser()
    except RuntimeError:  # no such user
        return base / text
