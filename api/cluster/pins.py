"""Models that are to stay in this machine's memory: remembered on disk, loaded again if need be.

A pin is the machine's own: it holds while the machine takes work, and nobody else has to know it. While it does not
(`suspend`), pinned models may leave like all others.
"""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

from api.options import merge_options
from node.errors import NodeError
from node.identity import UnusableFile, read_private, write_private
from node.peers import Call, Caller, CallRefused
from node.waiting import set_within
from registry import ModelName, ModelStore, RegistryError

if TYPE_CHECKING:
    from api.cluster.measured import MeasuredNode
    from node.supervisor import LoadedModel, LoadOptions, WeightsKey
    from registry import Model

log = logging.getLogger(__name__)

LOOK_S = 5.0
MAX_PINS = 256


class Pin(Struct, frozen=True, kw_only=True):
    """Keep the model of this full name in memory, or no longer."""

    name: Annotated[str, Meta(max_length=512)]
    pinned: bool


class PinAnswer(Struct, frozen=True, kw_only=True):
    """What is pinned there now, by full name."""

    names: tuple[str, ...]


class Pins:
    """This node's pins. `keep_alive_s`: how long a model stays when it is pinned no longer."""

    def __init__(self, folder: Path, node: MeasuredNode, store: ModelStore, *, keep_alive_s: float) -> None:
        self._path = folder / "pins"
        self._node, self._store, self._keep_alive_s = node, store, keep_alive_s
        self._names: set[str] = self._read()
        self._changed = asyncio.Event()
        self._suspended = False

    def calls(self) -> dict[str, Call]:
        """What this answers to other nodes."""
        return {"pin": Call(Pin, self.answer)}

    async def answer(self, caller: Caller | None, pin: Pin) -> PinAnswer:
        """Pin or unpin here. Raises CallRefused: no such model here, or too many."""
        name = ModelName.parse(pin.name)
        if pin.pinned:
            try:
                await asyncio.to_thread(self._store.resolve, name)
            except RegistryError as error:
                raise CallRefused(404, str(error)) from None
            if len(self._names) >= MAX_PINS:
                raise CallRefused(409, f"{MAX_PINS} models are pinned already")
            self._names.add(name.full)
        elif name.full in self._names:
            self._names.discard(name.full)
            # It goes like any other model from now on.
            await self._restore_keep_alive(name)
        write_private(self._path, msgspec.json.encode(sorted(self._names)))
        self._changed.set()
        return PinAnswer(names=tuple(sorted(self._names)))

    def suspend(self, *, on: bool) -> None:
        """Keep nothing in memory while this machine takes no work; `on` False: it does again."""
        if self._suspended != on:
            self._suspended = on
            self._changed.set()

    async def keep(self) -> None:
        """Have every pinned model in memory, for ever."""
        while True:
            self._changed.clear()
            pinned = set()
            for text in () if self._suspended else sorted(self._names):
                try:
                    model, key = await asyncio.to_thread(self._resolve, ModelName.parse(text))
                    pinned.add(key)
                    self._node.pinned |= {key}
                    if not any(_key(item) == key and item.expires_at is None for item in self._node.loaded()):
                        await self._node.load(model, _options(model), math.inf, embedding=key[1])
                        if text not in self._names:  # unpinned while it was being loaded
                            pinned.discard(key)
                            await self._restore_keep_alive(ModelName.parse(text))
                except (NodeError, RegistryError) as error:
                    log.warning("pinned model %s is not loaded: %s", text, error)
                except Exception:  # the next look may do better
                    log.exception("pinned model %s is not loaded", text)
            self._node.pinned = frozenset(pinned)
            await set_within(self._changed, LOOK_S)

    async def _restore_keep_alive(self, name: ModelName) -> None:
        try:
            model, key = await asyncio.to_thread(self._resolve, name)
            self._node.pinned -= {key}
            if any(_key(item) == key for item in self._node.loaded()):
                await self._node.load(model, _options(model), self._keep_alive_s, embedding=key[1])
        except (NodeError, RegistryError) as error:
            log.info("model %s keeps its time in memory: %s", name, error)

    def _resolve(self, name: ModelName) -> tuple[Model, WeightsKey]:
        """The model, and as what it is kept: one that can only embed is kept for that. Raises RegistryError."""
        model = self._store.resolve(name)
        return model, (model.weights_digest, "completion" not in model.capabilities())

    def _read(self) -> set[str]:
        try:
            if not self._path.exists():
                return set()
            return set(msgspec.json.decode(read_private(self._path), type=list[str])[:MAX_PINS])
        except (UnusableFile, OSError, msgspec.MsgspecError) as error:  # no reason not to start
            log.warning("pinned models not read: %s", error)
            return set()


def _key(loaded: LoadedModel) -> WeightsKey:
    return loaded.weights, loaded.embedding


def _options(model: Model) -> LoadOptions:
    """As a request that names none would load it: otherwise the first one would load it anew."""
    return merge_options(model.parameters).load_options()
