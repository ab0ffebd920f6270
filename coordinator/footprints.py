"""What models take in memory, worked out once for each from the facts in its file."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeAlias

from node.fit import ModelShape
from node.footprint import Footprint
from node.supervisor import base_context
from registry import RegistryError

if TYPE_CHECKING:
    from node.settings import Settings
    from node.supervisor import LoadOptions
    from registry import Model

log = logging.getLogger(__name__)

MAX_KEPT = 1024
_Key: TypeAlias = tuple[str, bool, int | None]


class Footprints:
    """Footprints by manifest, kind of context and batch."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: dict[_Key, Footprint] = {}

    async def of(self, model: Model, options: LoadOptions, *, embedding: bool) -> Footprint | None:
        """What the model takes; None: its weights are not on this machine, or damaged."""
        key = (model.digest.hex, embedding, options.num_batch)
        if (kept := self._kept.get(key)) is not None:
            return kept
        found = await asyncio.to_thread(self._work_out, model, options, embedding)
        if found is not None:  # what is not here now may come
            if len(self._kept) >= MAX_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = found
        return found

    def _work_out(self, model: Model, options: LoadOptions, embedding: bool) -> Footprint | None:
        try:
            shape = ModelShape.of(model.facts())
        except RegistryError as error:
            log.debug("size of model %s is not known here: %s", model.name, error)
            return None
        base = base_context(options, self._settings, embedding=embedding)
        return Footprint.of(shape, base, file_bytes=model.size_bytes)
