"""What one node does for another: the supervisor of this machine, a node elsewhere, or a stand-in for either."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from node.jobs import Embedded, EmbedJob, Event, Job, Rendered
    from node.supervisor import LoadedModel, LoadOptions
    from registry import Model, ModelName


class Serves(Protocol):
    """Who runs models. All methods raise NodeError."""

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
        """Make sure that the model is in memory."""
        ...

    async def unload(self, name: ModelName) -> bool:
        """Forget the model as soon as its running requests are done; False: it was not loaded."""
        ...
