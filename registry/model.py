"""One stored model: what its manifest says, and the texts behind it, read when asked for and then verified."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec

from registry.blobs import BlobStore
from registry.capabilities import capabilities_of
from registry.digest import Digest
from registry.errors import BlobError, ModelfileError, UnsupportedModel
from registry.facts_cache import FactsCache
from registry.gguf_facts import GgufFacts
from registry.manifest import (
    ADAPTER_TYPE,
    LICENSE_TYPE,
    MESSAGES_TYPE,
    MODEL_TYPE,
    OLD_TEMPLATE_TYPE,
    PARAMETERS_TYPE,
    PROJECTOR_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    Config,
    Layer,
    Manifest,
)
from registry.modelfile import Command, Modelfile
from registry.names import ModelName
from registry.parameters import ParameterValue, decode_parameters

log = logging.getLogger(__name__)

_RUN_KINDS: Final[Mapping[str, str]] = {
    MODEL_TYPE: "weights",
    ADAPTER_TYPE: "adapter",
    PROJECTOR_TYPE: "projector",
    TEMPLATE_TYPE: "template",
    OLD_TEMPLATE_TYPE: "template",
}
_GGUF_FORMATS: Final = frozenset({"", "gguf"})


class ChatTurn(msgspec.Struct, frozen=True):
    """A turn that every conversation with the model starts with (MESSAGE)."""

    role: str
    content: str = ""


@dataclass(frozen=True)
class Model:
    """A model of the store. Two are equal when name and manifest are.

    The properties that read blobs raise BlobNotFound, CorruptBlob or UnsupportedModel where the store is damaged.
    """

    name: ModelName
    digest: Digest
    manifest: Manifest = field(compare=False, repr=False)
    modified_at: datetime = field(compare=False)
    builtin: bool = field(compare=False)
    blobs: BlobStore = field(compare=False, repr=False)
    facts_cache: FactsCache = field(compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        """What all its blobs take on disk."""
        return self.manifest.size_bytes

    @cached_property
    def config(self) -> Config:
        """Format, family, size and quantisation for display; empty where the blob is missing or damaged."""
        if self.manifest.config is None:
            return Config()
        try:
            return Config.decode(self.blobs.read(self.manifest.config.digest))
        except (BlobError, UnsupportedModel) as error:
            log.warning("config of model %s: %s", self.name, error)
            return Config()

    @property
    def weights(self) -> Path:
        """The GGUF file. Raises: UnsupportedModel: the model has none. BlobNotFound."""
        return self._existing(self.weights_layer)

    @property
    def weights_layer(self) -> Layer:
        """The layer of the GGUF file. Raises: UnsupportedModel: the model has none."""
        config = self.config
        if isinstance(config.remote_host, str):
            raise UnsupportedModel(f"model '{self.name}' lives on {config.remote_host}, not on this machine")
        layers = list(self.manifest.of_type(MODEL_TYPE))
        if not layers or config.model_format not in _GGUF_FORMATS:
            kind = config.model_format or "no weights"
            raise UnsupportedModel(f"model '{self.name}' can't be run: it is not in GGUF format ({kind})")
        return layers[0]

    @cached_property
    def weights_digest(self) -> Digest:
        """What of the model is in memory when it runs: weights, adapters, projector, template.

        Models of the same digest differ only in defaults, and one runner serves them all. The same on every machine:
        the SHA-256 of those layers' kinds and digests, a line each, in the manifest's order.
        """
        lines = [f"{_RUN_KINDS[layer.media_type]} {layer.digest}\n" for layer in self.manifest.of_type(*_RUN_KINDS)]
        return Digest.of("".join(lines).encode())

    @property
    def adapters(self) -> tuple[Path, ...]:
        """LoRA adapters, in order. Raises: BlobNotFound."""
        return tuple(self._existing(layer) for layer in self.manifest.of_type(ADAPTER_TYPE))

    @property
    def projector(self) -> Path | None:
        """The vision projector. Raises: BlobNotFound."""
        layer = next(self.manifest.of_type(PROJECTOR_TYPE), None)
        return None if layer is None else self._existing(layer)

    @cached_property
    def template(self) -> str | None:
        """TEMPLATE; None: the chat template in the GGUF counts."""
        return self._text(TEMPLATE_TYPE, OLD_TEMPLATE_TYPE)

    @cached_property
    def system(self) -> str | None:
        """SYSTEM."""
        return self._text(SYSTEM_TYPE)

    @cached_property
    def licenses(self) -> tuple[str, ...]:
        """Every LICENSE."""
        return tuple(self._read_text(layer) for layer in self.manifest.of_type(LICENSE_TYPE))

    @cached_property
    def parameters(self) -> Mapping[str, ParameterValue]:
        """Every PARAMETER, typed; `stop` is a list of strings."""
        values: dict[str, ParameterValue] = {}
        for layer in self.manifest.of_type(PARAMETERS_TYPE):
            values |= decode_parameters(self.blobs.read(layer.digest))
        return values

    @cached_property
    def messages(self) -> tuple[ChatTurn, ...]:
        """Every MESSAGE."""
        turns: tuple[ChatTurn, ...] = ()
        for layer in self.manifest.of_type(MESSAGES_TYPE):
            try:
                turns = msgspec.json.decode(self.blobs.read(layer.digest), type=tuple[ChatTurn, ...] | None) or ()
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise UnsupportedModel(f"messages of model '{self.name}': {error}") from error
        return turns

    @property
    def requires(self) -> str | None:
        """REQUIRES: the version of Ollama that the model was made for."""
        return self.config.requires if isinstance(self.config.requires, str) else None

    @property
    def parent(self) -> str:
        """The model this one was made from, or empty."""
        return next((layer.origin for layer in self.manifest.of_type(MODEL_TYPE)), "")

    def facts(self) -> GgufFacts:
        """What the weights' metadata says. Takes 0.4 s once for each file, and next to nothing afterwards.

        Raises: UnsupportedModel, BlobNotFound, InvalidGguf.
        """
        return self.facts_cache.facts(self.weights_layer.digest, self.weights)

    def capabilities(self) -> tuple[str, ...]:
        """What the model can do, in Ollama's words. Raises: as `facts`."""
        declared = self.config.capabilities
        return capabilities_of(
            self.facts(),
            template=self.template,
            has_projector=self.projector is not None,
            declared=declared if isinstance(declared, tuple) else (),
        )

    def modelfile(self) -> str:
        """A Modelfile that makes this model, with paths of this machine, as `ollama show --modelfile` prints."""
        commands = [Command("from", str(self.weights))]
        commands += [Command("adapter", str(path)) for path in self.adapters]
        if (projector := self.projector) is not None:
            commands.append(Command("from", str(projector)))
        if self.template is not None:
            commands.append(Command("template", self.template))
        if self.system:
            commands.append(Command("system", self.system))
        for keyword, text in (("renderer", self.config.renderer), ("parser", self.config.parser)):
            if isinstance(text, str):
                commands.append(Command(keyword, text))
        for name, value in self.parameters.items():
            for item in value if isinstance(value, list) else [value]:
                commands.append(Command("parameter", _parameter_text(item), key=name))
        if self.requires:
            commands.append(Command("requires", self.requires))
        commands += [Command("license", text) for text in self.licenses]
        commands += [Command("message", turn.content, key=turn.role) for turn in self.messages]
        return _HEADER.format(name=self.name) + "".join(_render_or_say_why_not(command) for command in commands)

    def _existing(self, layer: Layer) -> Path:
        self.blobs.size(layer.digest)
        return self.blobs.path(layer.digest)

    def _text(self, *media_types: str) -> str | None:
        text = None
        for layer in self.manifest.of_type(*media_types):  # of several, Ollama takes the last
            text = self._read_text(layer)
        return text

    def _read_text(self, layer: Layer) -> str:
        return self.blobs.read(layer.digest).decode(errors="replace")


_HEADER: Final = """\
# Modelfile generated by "ayni show"
# To build a new Modelfile based on this, replace FROM with:
# FROM {name}

"""


def _parameter_text(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _render_or_say_why_not(command: Command) -> str:
    try:
        return Modelfile((command,)).render()
    except ModelfileError as error:
        return f"# {command.keyword.upper()} left out: {error}\n"
