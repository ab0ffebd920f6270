"""What the owner of placement hears (`PlacementEvent`) and what it wants done (`Order`): values that travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from coordinator.cost import RouteRequest
from node.report import NodeReport, WeightsDigest

if TYPE_CHECKING:
    from node.identity import NodeId
else:
    NodeId = str  # msgspec reads the annotations; actors that import this have no use for cryptography

LoadReason: TypeAlias = Literal["busy", "drained"]
UnloadReason: TypeAlias = Literal["room", "given_back", "drained"]


@dataclass(frozen=True, slots=True)
class Reported:
    """A node's newest report."""

    report: NodeReport


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node can't be reached any more, or has left."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Asked:
    """A daemon has a request for which a model would have to be loaded, and wants to know where.

    `ask` is its own id for this, and comes back in `Placed`, once and at once.
    """

    ask: str
    request: RouteRequest


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A node could not carry a `Load` out; `message` is meant for people."""

    node: NodeId
    model: WeightsDigest
    message: str
    embedding: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; about once a second."""


PlacementEvent: TypeAlias = Reported | NodeLost | Asked | LoadFailed | Tick


@dataclass(frozen=True, slots=True)
class Load:
    """Bring a model into memory on a node, to stay there as its settings say."""

    node: NodeId
    model: WeightsDigest
    reason: LoadReason
    embedding: bool = False
    context_tokens: int | None = None
    parallel: int | None = None


@dataclass(frozen=True, slots=True)
class Unload:
    """Take a model out of memory on a node, as soon as nothing uses it."""

    node: NodeId
    model: WeightsDigest
    reason: UnloadReason
    embedding: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """The answer to an ask: send the request to this node, which loads the model for it. None: nobody could."""

    ask: str
    node: NodeId | None


Order: TypeAlias = Load | Unload | Placed
