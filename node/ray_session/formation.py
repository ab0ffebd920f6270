"""Which Ray cluster to be in: one generation of it, with its head's address and its secret.

The head's daemon makes a `Formation` and hands it to the other daemons over their mutual-TLS links; nobody believes
mDNS for this. A higher generation always wins.
"""

from __future__ import annotations

import secrets
from collections.abc import Set
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from node.identity import NodeId
else:
    NodeId = str  # msgspec reads the annotations; actors that import this have no use for cryptography

Role: TypeAlias = Literal["head", "worker"]

TOKEN_BYTES = 32


class Formation(Struct, frozen=True, kw_only=True):
    """One incarnation of the Ray cluster.

    Attributes:
        head: the node that runs the control store; `address` and `port`: where that listens.
        token: what every Ray process of this generation presents, and all that Ray asks for.
        removed: who had been removed from the cluster when the token was made. Whoever is removed later may know it.
    """

    generation: int
    head: NodeId
    address: str
    port: int
    token: str
    removed: frozenset[NodeId] = frozenset()

    @property
    def gcs_address(self) -> str:
        """The head's control store as Ray writes it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def role_of(self, node: NodeId) -> Role:
        """What a node is to do in it."""
        return "head" if node == self.head else "worker"

    def keeps_out(self, removed: Set[NodeId]) -> bool:
        """Whether nobody of these, who are all that were removed until now, can know the token."""
        return removed <= self.removed

    def __repr__(self) -> str:
        return f"Formation(generation={self.generation}, head={self.head!r}, gcs={self.gcs_address!r})"


def new_token() -> str:
    """A secret for a new generation."""
    return secrets.token_hex(TOKEN_BYTES)
