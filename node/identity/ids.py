"""How nodes and clusters are named: by their keys, so that nobody can take another's name; and the names for people."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from node.identity.errors import InvalidClusterName, Malformed

NodeId = NewType("NodeId", str)
ClusterId = NewType("ClusterId", str)

ID_BYTES = 8
_ID = re.compile(r"[0-9a-f]{16}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def node_id_of(identity_key: bytes) -> NodeId:
    """The id of the node with this raw Ed25519 public key: 16 hex digits."""
    return NodeId(hashlib.sha256(identity_key).digest()[:ID_BYTES].hex())


def cluster_id_of(root_key: bytes) -> ClusterId:
    """The id of the cluster with this raw Ed25519 root public key: 16 hex digits."""
    return ClusterId(hashlib.sha256(root_key).digest()[:ID_BYTES].hex())


def parse_node_id(text: str) -> NodeId:
    """Raises Malformed."""
    if not _ID.fullmatch(text):
        raise Malformed("node id")
    return NodeId(text)


def parse_cluster_name(text: str) -> str:
    """A name that can stand before `.local`, in lower case. Raises InvalidClusterName."""
    name = text.strip().lower()
    if not _LABEL.fullmatch(name):
        raise InvalidClusterName(text)
    return name
