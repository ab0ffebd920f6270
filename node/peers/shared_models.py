"""The models of this node as other nodes name them: by name and manifest digest.

Looking a model up reads the disk, so what was found is kept: a digest names the same manifest for ever.
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
        """The model that another node means. Raises ModelNotFound: not here, or not that version of it."""
        if (model := self._kept.get(ref)) is not None:
            return model
        model = await asyncio.to_thread(self._find, ref)
        if len(self._kept) >= MAX_KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[ref] = model
        return model

    def _find(self, ref: ModelRef) -> Model:
        name = ModelName.parse(ref.name)
        model = self._store.resolve(name)
        if model.digest.hex != ref.digest:
            raise ModelNotFound(name)
        return model
