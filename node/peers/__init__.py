"""The other nodes: mutual-TLS links that carry work, beats that say who is there, calls with one answer each.

Nothing here starts before this machine belongs to a cluster, and nothing else imports it until then.
"""

from __future__ import annotations

from node.peers.book import AddressBook
from node.peers.endpoints import PEER, PREFIX, Call, Caller, Endpoints
from node.peers.entry import Registrar, join_cluster
from node.peers.errors import CallRefused, ModelNotThere, PeerError, PeerLost, PeerRefused, PeerUnreachable
from node.peers.membership import (
    Beat,
    Change,
    Member,
    MemberRecord,
    Membership,
    Reported,
    WentDown,
    WentUp,
)
from node.peers.peers import Peers
from node.peers.remote import RemoteNode
from node.peers.shared_models import SharedModels

__all__ = [
    "PEER",
    "PREFIX",
    "AddressBook",
    "Beat",
    "Call",
    "CallRefused",
    "Caller",
    "Change",
    "Endpoints",
    "Member",
    "MemberRecord",
    "Membership",
    "ModelNotThere",
    "PeerError",
    "PeerLost",
    "PeerRefused",
    "PeerUnreachable",
    "Peers",
    "Registrar",
    "RemoteNode",
    "Reported",
    "SharedModels",
    "WentDown",
    "WentUp",
    "join_cluster",
]
