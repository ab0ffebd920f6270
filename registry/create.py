"""Turn a recipe into a manifest: every blob it needs is stored afterwards, nothing refers to it yet.

`registry.store` writes the manifest; until then the new blobs are protected by their age alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import msgspec

from registry.blobs import BlobStore
from registry.digest import Digest
from registry.errors import BlobNotFound, UnsupportedModel
from registry.facts_cache import FactsCache
from registry.gguf_facts import GgufFacts
from registry.manifest import (
    ADAPTER_TYPE,
    CONFIG_TYPE,
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
    people_count,
)
from registry.model import Model
from registry.names import ModelName
from registry.parameters import ParameterValue, check_parameters
from registry.recipe import Files, Recipe, check_version

Progress: TypeAlias = Callable[[str], None]

_MEDIA_TYPES: Final[Mapping[str, str]] = {
    "model": MODEL_TYPE,
    "adapter": ADAPTER_TYPE,
    "projector": PROJECTOR_TYPE,
}
# Licences add up; of the others a model has one.
_REPLACES: Final[Mapping[str, tuple[str, ...]]] = {
    TEMPLATE_TYPE: (TEMPLATE_TYPE, OLD_TEMPLATE_TYPE),
    SYSTEM_TYPE: (SYSTEM_TYPE,),
    PARAMETERS_TYPE: (PARAMETERS_TYPE,),
    MESSAGES_TYPE: (MESSAGES_TYPE,),
}


@dataclass(frozen=True, slots=True)
class Builder:
    """Makes manifests in one models folder. `resolve` finds a stored model by name."""

    blobs: BlobStore
    facts: FactsCache
    resolve: Callable[[ModelName], Model]

    def build(self, recipe: Recipe, progress: Progress) -> Manifest:
        """Store what the recipe needs and say how it fits together.

        Raises: UnsupportedModel, ModelNotFound, BlobNotFound, InvalidGguf, InvalidParameter, StorageFull, and
            OSError of files that can't be read.
        """
        if recipe.quantize:
            raise UnsupportedModel(
                "quantize is not supported: quantise the GGUF file first (llama.cpp: llama-quantize)"
            )
        if isinstance(recipe.source, ModelName):
            source = self.resolve(recipe.source)
            texts = _texts(recipe, source.parameters)
            layers, config = self._from_model(source, {media_type for media_type, _ in texts}, progress)
        else:
            texts = _texts(recipe, {})
            layers, config = self._from_files(recipe.source, progress)
        layers += self._adapters(recipe.adapters, progress)
        layers += [self._text_layer(media_type, data, progress) for media_type, data in texts]
        config = _overridden(config, recipe)
        config_layer = self._text_layer(CONFIG_TYPE, config.encode(), progress)
        return Manifest(config_layer, tuple(layers))

    def _from_model(self, source: Model, brought: set[str], progress: Progress) -> tuple[list[Layer], Config]:
        """The source's layers, but for those that the types `brought` replace."""
        weights = source.weights_layer
        replaced = {old for media_type in brought for old in _REPLACES.get(media_type, ())}
        layers = []
        for layer in source.manifest.layers:
            if layer.media_type not in replaced:
                self.take(layer.digest, source.blobs)
                progress(f"using existing layer {layer.digest}")
                layers.append(replace(layer, origin=str(source.name)))
        if source.config.model_family:
            return layers, source.config
        return layers, _describe(self._sound_facts(weights.digest))

    def _from_files(self, files: Files, progress: Progress) -> tuple[list[Layer], Config]:
        layers: list[Layer] = []
        config: Config | None = None
        for digest in self._stored(files, progress):
            progress("parsing GGUF")
            facts = self._sound_facts(digest)
            media_type = _MEDIA_TYPES.get(facts.kind)
            if media_type is None:
                raise UnsupportedModel(f"a GGUF file of type '{facts.kind}' is no model")
            if media_type == MODEL_TYPE:
                if config is not None:
                    raise UnsupportedModel("more than one model among the files")
                config = _describe(facts)
            layers.append(self._existing_layer(media_type, digest, progress))
        if config is None:
            raise UnsupportedModel("no model among the files")
        layers.sort(key=lambda layer: layer.media_type != MODEL_TYPE)
        return layers, config

    def _adapters(self, files: Files, progress: Progress) -> Iterator[Layer]:
        for digest in self._stored(files, progress):
            facts = self._sound_facts(digest)
            if facts.kind != "adapter":
                raise UnsupportedModel(f"the adapter {digest} is a GGUF file of type '{facts.kind}'")
            yield self._existing_layer(ADAPTER_TYPE, digest, progress)

    def _stored(self, files: Files, progress: Progress) -> Iterator[Digest]:
        if isinstance(files, Mapping):
            for digest in files.values():
                if not self.blobs.claim(digest):
                    raise BlobNotFound(digest)
                yield digest
        else:
            for path in files:
                progress(f"copying file {path.name}")
                yield self.blobs.put_file(path)

    def take(self, digest: Digest, source: BlobStore) -> None:
        """Make sure that a blob of another model is in this folder. Raises: BlobNotFound, StorageFull."""
        if not self.blobs.claim(digest):
            if not source.has(digest):
                raise BlobNotFound(digest)
            self.blobs.put_file(source.path(digest))

    def _text_layer(self, media_type: str, data: bytes, progress: Progress) -> Layer:
        known = self.blobs.has(Digest.of(data))
        digest = self.blobs.put(data)
        progress(f"{'using existing' if known else 'creating new'} layer {digest}")
        return Layer(media_type, digest, len(data))

    def _existing_layer(self, media_type: str, digest: Digest, progress: Progress) -> Layer:
        progress(f"using existing layer {digest}")
        return Layer(media_type, digest, self.blobs.size(digest))

    def _sound_facts(self, digest: Digest) -> GgufFacts:
        facts = self.facts.facts(digest, self.blobs.path(digest))
        shards = facts.metadata.get("split.count", 0)
        if isinstance(shards, int) and shards > 1:
            raise UnsupportedModel(
                f"the model is split over {shards} files; merge them first (llama.cpp: llama-gguf-split --merge)"
            )
        return facts


def _texts(recipe: Recipe, inherited: Mapping[str, ParameterValue]) -> list[tuple[str, bytes]]:
    """The text blobs that the recipe brings, with their types; new parameters are merged into the inherited."""
    texts = []
    if recipe.template:
        texts.append((TEMPLATE_TYPE, recipe.template.encode()))
    if recipe.system:
        texts.append((SYSTEM_TYPE, recipe.system.encode()))
    texts += [(LICENSE_TYPE, text.encode()) for text in recipe.licenses if text]
    if parameters := check_parameters(recipe.parameters or {}):
        texts.append((PARAMETERS_TYPE, msgspec.json.encode({**inherited, **parameters}) + b"\n"))
    if recipe.messages:
        texts.append((MESSAGES_TYPE, msgspec.json.encode(recipe.messages) + b"\n"))
    return texts


def _describe(facts: GgufFacts) -> Config:
    return Config(
        model_format="gguf",
        model_family=facts.architecture,
        model_families=(facts.architecture,),
        model_type=people_count(facts.parameter_count),
        file_type=facts.file_type,
    )


def _overridden(config: Config, recipe: Recipe) -> Config:
    changes: dict[str, str] = {}
    if recipe.requires:
        changes["requires"] = check_version(recipe.requires)
    if recipe.renderer:
        changes["renderer"] = recipe.renderer
    if recipe.parser:
        changes["parser"] = recipe.parser
    return msgspec.structs.replace(config, **changes)
