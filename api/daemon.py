"""What the routes work with: the models, the node that runs them, the settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from api.errors import UnknownModel
from node.jobs import Embedded, EmbedJob, Event, Job, Rendered
from node.settings import Settings
from node.supervisor import LoadedModel, LoadOptions
from registry import Model, ModelName, ModelNotFound, ModelStore

MAX_KNOWN_MODELS = 256
# What this version's engine can do with a model; pictures and sound are not among it yet.
SERVED_CAPABILITIES = ("completion", "embedding", "tools", "insert", "thinking")


class Node(Protocol):
    """Who runs models; `node.supervisor.Supervisor` does. All raise NodeError."""

    def run(
        self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None
    ) -> AsyncGenerator[Event, None]:
        """Run a job; closing the generator cancels it."""
        ...

    async def embed(self, model: Model, job: EmbedJob, options: LoadOptions, keep_alive_s: float | None) -> Embedded:
        """Embed texts."""
        ...

    async def render(self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None) -> Rendered:
        """Only render the job's prompt."""
        ...

    async def load(
        self, model: Model, options: LoadOptions, keep_alive_s: float | None, *, embedding: bool = False
    ) -> LoadedModel:
        """Make sure that the model is in memory; `embedding`: to embed texts."""
        ...

    async def unload(self, name: ModelName) -> bool:
        """Forget the model as soon as its running requests are done; False: it was not loaded."""
        ...

    def loaded(self) -> list[LoadedModel]:
        """The models in memory now."""
        ...


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A stored model and what this node can do with it."""

    model: Model
    capabilities: tuple[str, ...]


class ModelShelf:
    """Models by the names that requests use. What is read of a model is kept until its manifest changes."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._known: dict[tuple[ModelName, str], KnownModel] = {}

    async def find(self, asked: str, *, advice: str = "") -> KnownModel:
        """The model that a request names, with everything read that a request needs.

        Raises: UnknownModel, with `advice` in its text; InvalidModelName; RegistryError: the store is damaged.
        """
        try:
            return await asyncio.to_thread(self._find, ModelName.parse(asked))
        except ModelNotFound:
            raise UnknownModel(asked, advice) from None

    def describe(self, model: Model) -> KnownModel:
        """What is known of a stored model; blocks on the disk the first time. Raises RegistryError."""
        key = (model.name, model.digest.hex)
        if known := self._known.get(key):
            return known
        capabilities = tuple(name for name in model.capabilities() if name in SERVED_CAPABILITIES)
        # Reading these now, in this thread, keeps the disk out of the requests that follow.
        _ = model.system, model.template, model.parameters, model.messages
        if len(self._known) >= MAX_KNOWN_MODELS:
            self._known.pop(next(iter(self._known)))
        self._known[key] = KnownModel(model, capabilities)
        return self._known[key]

    def _find(self, name: ModelName) -> KnownModel:
        return self.describe(self._store.resolve(name))


@dataclass(frozen=True, slots=True)
class Daemon:
    """Everything that a route may use. `bound_host` is what the listening socket is bound to."""

    store: ModelStore
    node: Node
    settings: Settings
    version: str
    bound_host: str = "127.0.0.1"
    shelf: ModelShelf = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shelf", ModelShelf(self.store))
