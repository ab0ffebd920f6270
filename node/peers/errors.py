"""What can go wrong between two nodes.

PeerError
├── NobodyUp            no other member can be reached at all
├── PeerUnreachable     no connection could be made: refused, timed out, wrong certificate
├── PeerLost            the link broke, or the node fell silent, while it was working for us
├── PeerRefused         the node answered that it would not
│   └── RemovalTold     because this node is no member any more, as it says
├── CallRefused         we will not do what another node asks
└── ModelNotThere       the node does not have that model, or not that version of it

`node` is the other node's id, or its address where only that is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.errors import NodeError

if TYPE_CHECKING:
    from node.identity import Signed


class PeerError(NodeError):
    """Another node could not do what it was asked."""


class NobodyUp(PeerError):
    """Another member is needed, and none is up."""

    def __str__(self) -> str:
        return "no other machine of the cluster can be reached"


class PeerUnreachable(PeerError):
    """No connection to the node; `refused` says that its machine answered, but no daemon is there."""

    def __init__(self, node: str, reason: str, refused: bool = False) -> None:
        super().__init__(node, reason, refused)
        self.node, self.reason, self.refused = node, reason, refused

    def __str__(self) -> str:
        return f"node {self.node} can't be reached: {self.reason}"


class PeerLost(PeerError):
    """The node was lost in the middle of its work."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(node, reason)
        self.node, self.reason = node, reason

    def __str__(self) -> str:
        return f"node {self.node} was lost: {self.reason}"


class PeerRefused(PeerError):
    """The node said no; `status` is its HTTP status code."""

    def __init__(self, node: str, status: int, reason: str) -> None:
        super().__init__(node, status, reason)
        self.node, self.status, self.reason = node, status, reason

    def __str__(self) -> str:
        return f"node {self.node} refused: {self.reason}"


class RemovalTold(PeerRefused):
    """The node says that this one was removed from the cluster. That is so if the ledger takes the `proof`."""

    def __init__(self, node: str, proof: Signed) -> None:
        super().__init__(node, 401, "this machine was removed from the cluster")
        self.args = (node, proof)
        self.proof = proof


class CallRefused(PeerError):
    """What the other node is told instead of an answer; `status` is an HTTP status code."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason

    def __str__(self) -> str:
        return self.reason


class ModelNotThere(PeerError):
    """The node has no such model; `model` is its name."""

    def __init__(self, node: str, model: str) -> None:
        super().__init__(node, model)
        self.node, self.model = node, model

    def __str__(self) -> str:
        return f"node {self.node} does not have model '{self.model}'"
