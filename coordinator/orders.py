"""What the owner of placement hears (`PlacementEvent`) and what it wants done (`Order`): values that travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from coordinator.cost import RouteRequest
from coordinator.route import Refusal
from node.report import NodeReport, WeightsDigest

if TYPE_CHECKING:
    from node.identity import NodeId
else:
    NodeId = str  # msgspec reads the annotations; actors that import this have no use for cryptography

LoadReason: TypeAlias = Literal["asked", "busy", "drained"]
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
    """A daemon has a request for a model that no node can serve at once, and waits for a place, until `deadline_s`.

    `ask` is its own id for this, and comes back in `Placed` or `Refused`, once.
    """

    ask: str
    request: RouteRequest
    deadline_s: float
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Nobody waits for the answer to this ask any more."""

    ask: str


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


PlacementEvent: TypeAlias = Reported | NodeLost | Asked | Withdrawn | LoadFailed | Tick


@dataclass(frozen=True, slots=True)
class Load:
    """Bring a model into memory on a node. `keep_alive_s` None: as the node's settings say."""

    node: NodeId
    model: WeightsDigest
    reason: LoadReason
    embedding: bool = False
    context_tokens: int | None = None
    parallel: int | None = None
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unload:
    """Take a model out of memory on a node, as soon as nothing uses it."""

    node: NodeId
    model: WeightsDigest
    reason: UnloadReason
    embedding: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """The answer to an ask: the model is in memory on this node."""

    ask: str
    node: NodeId


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to an ask that can't be met. `message`: of the last load that failed for it, or ""."""

    ask: str
    refusal: Refusal
    message: str = ""


Order: TypeAlias = Load | Unload | Placed | Refused
