"""Manifests and configs: which blobs make a model, in the JSON that Ollama reads and writes.

Pure: bytes in, values out, and back. `registry.store` finds and writes the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from registry.digest import Digest
from registry.errors import InvalidDigest, UnsupportedModel

MANIFEST_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE: Final = "application/vnd.docker.container.image.v1+json"
MODEL_TYPE: Final = "application/vnd.ollama.image.model"
PROJECTOR_TYPE: Final = "application/vnd.ollama.image.projector"
ADAPTER_TYPE: Final = "application/vnd.ollama.image.adapter"
TEMPLATE_TYPE: Final = "application/vnd.ollama.image.template"
# What templates were called in 2023; folders of that age still have it.
OLD_TEMPLATE_TYPE: Final = "application/vnd.ollama.image.prompt"
SYSTEM_TYPE: Final = "application/vnd.ollama.image.system"
PARAMETERS_TYPE: Final = "application/vnd.ollama.image.params"
MESSAGES_TYPE: Final = "application/vnd.ollama.image.messages"
LICENSE_TYPE: Final = "application/vnd.ollama.image.license"

# A model of thousands of single-tensor layers has a manifest of about 1 MiB; GGUF models stay under 4 KiB.
MAX_MANIFEST_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a model; `origin` is the file or model it was made from."""

    media_type: str
    digest: Digest
    size_bytes: int
    origin: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The blobs of one model. Very old manifests have no config."""

    config: Layer | None
    layers: tuple[Layer, ...]

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """All layers, and the config."""
        return self.layers if self.config is None else (*self.layers, self.config)

    @property
    def size_bytes(self) -> int:
        """What the model takes on disk, as its manifest says."""
        return sum(layer.size_bytes for layer in self.blobs)

    def of_type(self, *media_types: str) -> Iterator[Layer]:
        """The layers of these types, in order."""
        return (layer for layer in self.layers if layer.media_type in media_types)

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Read a manifest file.

        Raises: UnsupportedModel: its text says what is wrong: no JSON, a field missing or of the wrong type, a
            bad digest, a size below zero.
        """
        try:
            raw = _decode_manifest(data)
            layers = tuple(_layer(layer) for layer in raw.layers or ())
            config = _layer(raw.config) if raw.config is not None and raw.config.digest else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidDigest) as error:
            raise UnsupportedModel(str(error)) from error
        return cls(config, layers)

    def encode(self) -> bytes:
        """The file, as Ollama writes it."""
        raw = _RawManifest(
            schemaVersion=2,
            mediaType=MANIFEST_TYPE,
            config=None if self.config is None else _raw(self.config),
            layers=[_raw(layer) for layer in self.layers],
        )
        return msgspec.json.encode(raw) + b"\n"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The config blob: what is shown of a model without opening its weights. Ollama's field names.

    `model_type` is the parameter count for people ("1.2B"), `file_type` the quantisation ("Q8_0").
    """

    model_format: str = ""
    model_family: str = ""
    model_families: tuple[str, ...] | None = None
    model_type: str = ""
    file_type: str = ""
    renderer: str | msgspec.UnsetType = msgspec.UNSET
    parser: str | msgspec.UnsetType = msgspec.UNSET
    requires: str | msgspec.UnsetType = msgspec.UNSET
    remote_host: str | msgspec.UnsetType = msgspec.UNSET
    remote_model: str | msgspec.UnsetType = msgspec.UNSET
    capabilities: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    context_length: int | msgspec.UnsetType = msgspec.UNSET
    embedding_length: int | msgspec.UnsetType = msgspec.UNSET
    base_name: str | msgspec.UnsetType = msgspec.UNSET
    architecture: str = "amd64"
    os: str = "linux"

    @classmethod
    def decode(cls, data: bytes) -> Config:
        """Read a config blob. Raises: UnsupportedModel: no JSON, or fields of other types."""
        try:
            return _decode_config(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnsupportedModel(str(error)) from error

    def encode(self) -> bytes:
        """The blob, as Ollama writes it."""
        return msgspec.json.encode(self) + b"\n"


def people_count(count: int) -> str:
    """A parameter count as Ollama shows it: 1.2B, 4.19M, 15K."""
    for unit, size, digits in (("B", 10**9, 1), ("M", 10**6, 2)):
        if count >= size:
            return f"{count // size}{unit}" if count % size == 0 else f"{count / size:.{digits}f}{unit}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def mentioned_digests(data: bytes) -> set[Digest]:
    """Every digest that occurs in a file, even one that is no sound manifest."""
    return {Digest(match.decode().lower()) for match in re.findall(rb"sha256[:-]([0-9a-fA-F]{64})", data)}


class _RawLayer(msgspec.Struct, frozen=True, omit_defaults=True):
    # Ollama writes these three even when they are empty.
    mediaType: str | None = None  # noqa: N815
    digest: str | None = None
    size: int | None = None
    from_: str = msgspec.field(default="", name="from")
    name: str = ""


class _RawManifest(msgspec.Struct, frozen=True):
    schemaVersion: int = 2  # noqa: N815
    mediaType: str = MANIFEST_TYPE  # noqa: N815
    config: _RawLayer | None = None
    layers: list[_RawLayer] | None = None


_decode_manifest = msgspec.json.Decoder(_RawManifest).decode
_decode_config = msgspec.json.Decoder(Config).decode


def _layer(raw: _RawLayer) -> Layer:
    size = raw.size or 0
    if not 0 <= size < 1 << 63:
        raise UnsupportedModel(f"a layer can't have {size} bytes")
    return Layer(raw.mediaType or "", Digest.parse(raw.digest or ""), size, raw.from_, raw.name)


def _raw(layer: Layer) -> _RawLayer:
    return _RawLayer(layer.media_type, str(layer.digest), layer.size_bytes, layer.origin, layer.name)
