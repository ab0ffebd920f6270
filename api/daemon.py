"""What the routes work with: the models, the node that runs them, the settings."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from api.errors import NotGranted, UnknownModel
from api.request_record import REQUEST
from node.serves import Node
from node.settings import Settings
from node.telemetry import Telemetry
from registry import Model, ModelName, ModelNotFound, ModelStore

if TYPE_CHECKING:
    from api.cluster.host import ClusterHost
    from node.devices import MachineSource

MAX_KNOWN_MODELS = 256
# What this version's engine can do with a model; pictures and sound are not among it yet.
SERVED_CAPABILITIES = ("completion", "embedding", "tools", "insert", "thinking")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A stored model and what this node can do with it."""

    model: Model
    capabilities: tuple[str, ...]


class Elsewhere(Protocol):
    """The models of other machines; `api.cluster.catalogue.Catalogue` knows them."""

    async def find(self, name: ModelName) -> KnownModel:
        """A model that only other machines store. Raises ModelNotFound, Unserved."""
        ...

    async def show(self, name: ModelName, *, verbose: bool) -> dict[str, Any]:
        """What /api/show says of it. Raises as `find`."""
        ...

    async def entries(self, local: Sequence[ModelName]) -> list[dict[str, Any]]:
        """Lines of /api/tags for models that are not among the local ones."""
        ...

    async def loaded(self, here: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Lines of /api/ps: those of this machine and those of the others, each with its machine's name."""
        ...

    def may_use(self, name: str) -> bool:
        """Whether whoever asks may do anything with the model of this name."""
        ...

    def stored_here_changed(self) -> None:
        """Models were added to this machine, or removed."""
        ...


class ModelShelf:
    """Models by the names that requests use. What is read of a model is kept until its manifest changes.

    `elsewhere`: where names are looked up that no model of this machine has.
    """

    def __init__(self, store: ModelStore) -> None:
        self.elsewhere: Elsewhere | None = None
        self._store = store
        self._known: dict[tuple[ModelName, str], KnownModel] = {}

    async def find(self, asked: str, *, advice: str = "") -> KnownModel:
        """The model that a request names, with everything read that a request needs.

        Raises: UnknownModel, with `advice` in its text; InvalidModelName; RegistryError: the store is damaged;
        NotGranted: whoever asks may not use it; Unserved: only machines that can't be reached have it.
        """
        name = ModelName.parse(asked)
        self.require(name)
        try:
            known = await asyncio.to_thread(self._find, name)
        except ModelNotFound:
            if self.elsewhere is None:
                raise UnknownModel(asked, advice) from None
            try:
                known = await self.elsewhere.find(name)
            except ModelNotFound:
                raise UnknownModel(asked, advice) from None
        if (record := REQUEST.get()) is not None:
            record.model = str(known.model.name)
        return known

    def require(self, name: ModelName) -> None:
        """Raises NotGranted: whoever asks may neither use the model of this name, nor make or remove it."""
        if self.elsewhere is not None and not self.elsewhere.may_use(str(name)):
            raise NotGranted(f"this token does not allow model '{str(name)[:128]}'")

    def is_here(self, known: KnownModel) -> bool:
        """Whether this machine stores the model; looks at the disk."""
        try:
            return self._store.resolve(known.model.name).digest == known.model.digest
        except ModelNotFound:
            return False

    def changed(self) -> None:
        """Models were added to this machine, or removed."""
        if self.elsewhere is not None:
            self.elsewhere.stored_here_changed()

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


@dataclass(slots=True)
class Daemon:
    """Everything that a route may use.

    Attributes:
        node: who runs models: this machine's supervisor, or the whole cluster while it is in one.
        bound_host: what the listening socket is bound to.
        cluster: the way into a cluster and out of it; None: this daemon has none.
        telemetry: what is counted and traced, by everything of this daemon.
        devices: who knows this machine's devices; None: only the RAM is told.
        key: by which this daemon knows its own user (`api.own_user`). Secret.
    """

    store: ModelStore
    node: Node
    settings: Settings
    version: str
    bound_host: str = "127.0.0.1"
    cluster: ClusterHost | None = None
    telemetry: Telemetry = field(default_factory=Telemetry)
    devices: MachineSource | None = None
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    shelf: ModelShelf = field(init=False)

    def __post_init__(self) -> None:
        self.shelf = ModelShelf(self.store)
