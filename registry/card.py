"""A model as it is told to a machine that does not store it: its manifest and its texts, without the weights.

Whoever takes a request has to know the model's template, parameters and system prompt, wherever it runs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Self

from msgspec import Meta, Struct

from registry.blobs import BlobStore
from registry.digest import Digest
from registry.errors import UnsupportedModel
from registry.facts_cache import FactsCache
from registry.manifest import ADAPTER_TYPE, MAX_MANIFEST_BYTES, MODEL_TYPE, PROJECTOR_TYPE, Manifest
from registry.model import Model
from registry.names import ModelName

# Licences are the longest texts.
MAX_TEXT_BYTES: Final = 2 << 20
MAX_TEXTS: Final = 64
MAX_UNIX_S: Final = 2.5e11  # near the end of the year 9891; calendars end with 9999
_WEIGHTS: Final = frozenset({MODEL_TYPE, ADAPTER_TYPE, PROJECTOR_TYPE})


class ModelCard(Struct, frozen=True, kw_only=True):
    """`texts`: the contents of all its small blobs; each is checked against its digest in the manifest."""

    name: Annotated[str, Meta(max_length=512)]
    digest: Annotated[str, Meta(max_length=128)]
    manifest: Annotated[bytes, Meta(max_length=MAX_MANIFEST_BYTES)]
    modified_at_s: Annotated[float, Meta(ge=0, le=MAX_UNIX_S)]
    texts: Annotated[tuple[bytes, ...], Meta(max_length=MAX_TEXTS)] = ()

    @classmethod
    def of(cls, model: Model) -> Self:
        """Describe a stored model; blocks on the disk. Raises RegistryError."""
        layers = [layer for layer in model.manifest.blobs if layer.media_type not in _WEIGHTS]
        texts = [model.blobs.read(layer.digest) for layer in layers if layer.size_bytes <= MAX_TEXT_BYTES]
        return cls(
            name=model.name.full,
            digest=str(model.digest),
            manifest=model.manifest.encode(),
            modified_at_s=max(0.0, model.modified_at.timestamp()),
            texts=tuple(texts[:MAX_TEXTS]),
        )


class CardBox:
    """Models made of cards; their texts are kept in a folder of their own. Blocks on the disk."""

    def __init__(self, folder: Path) -> None:
        self._blobs = BlobStore(folder / "blobs")
        self._facts = FactsCache(folder / "facts")

    def model(self, card: ModelCard) -> Model:
        """The model, without weights: asking for those raises BlobNotFound. Raises RegistryError: the card is wrong."""
        manifest = Manifest.decode(card.manifest)
        wanted = {layer.digest for layer in manifest.blobs if layer.media_type not in _WEIGHTS}
        for text in card.texts:
            if Digest.of(text) not in wanted or len(text) > MAX_TEXT_BYTES:
                raise UnsupportedModel(f"the description of model '{card.name}' does not fit its manifest")
            self._blobs.put(text)
        return Model(
            name=ModelName.parse(card.name),
            digest=Digest.parse(card.digest),
            manifest=manifest,
            modified_at=datetime.fromtimestamp(card.modified_at_s, UTC),
            builtin=False,
            blobs=self._blobs,
            facts_cache=self._facts,
        )

    def close(self) -> None:
        """Close what is open."""
        self._facts.close()
