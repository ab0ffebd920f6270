"""The models of this node as other nodes name them: by name and the digest of what is in memory when they run.

Looking a model up reads the disk, so what was found is kept: a digest names the same weights for ever.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from registry import ModelName, ModelNotFound

if TYPE_CHECKING:
    from node.peers.wire import ModelRef
    from registry import Model, ModelStore

MAX_KEPT = 256


class SharedModels:
    """What other nodes may ask this one to run."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._kept: dict[ModelRef, Model] = {}

    async def find(self, ref: ModelRef) -> Model:
        """The model that another node means, or one of the same weights. Raises ModelNotFound: neither is here."""
        if (model := self._kept.get(ref)) is not None:
            return model
        model = await asyncio.to_thread(self._find, ref)
        if len(self._kept) >= MAX_KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[ref] = model
        return model

    def _find(self, ref: ModelRef) -> Model:
        name = ModelName.parse(ref.name)
        same = [model for model in self._store.list() if model.weights_digest.hex == ref.weights]
        if not same:
            raise ModelNotFound(name)
        return next((model for model in same if model.name.full == name.full), same[0])
