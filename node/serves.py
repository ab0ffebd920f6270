"""Who runs models, from the narrow word to the wide one: any node, one that shows what it has, this machine's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from node.jobs import Embedded, EmbedJob, Event, Job, Rendered
    from node.supervisor import LoadedModel, LoadOptions, WeightsKey
    from registry import Digest, Model, ModelName


class Serves(Protocol):
    """The supervisor of this machine, a node elsewhere, or the whole cluster. All methods raise NodeError."""

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


class Node(Serves, Protocol):
    """What the API asks: the supervisor, or the cluster in its place."""

    def loaded(self) -> list[LoadedModel]:
        """The models in this machine's memory now."""
        ...


class OwnNode(Node, Protocol):
    """This machine's part of a cluster; `node.supervisor.Supervisor` is one."""

    def keep(self, weights: frozenset[WeightsKey]) -> None:
        """Have these, and no others, make no room for what else is to be loaded."""
        ...

    def leave(self, weights: Digest, *, embedding: bool) -> None:
        """Unload these weights as soon as no request uses them."""
        ...

    def let_go(self, weights: Digest, *, embedding: bool) -> None:
        """End every request that is at work with these weights, with Closing: whoever asked may go on elsewhere."""
        ...
