"""Who is who: the cluster's root, its members' certificates, invitations, tokens and revocations.

Decides whom to believe; who is reachable, and what a request may cost, is decided elsewhere. Everything here is
synchronous and takes the time as an argument; it touches no network, and no disk but `IdentityStore`'s folder.
docs/security.md says what is protected from whom.
"""

from node.identity.certificates import NodeNames, check_certificate, issue_certificate
from node.identity.errors import (
    AlreadyMember,
    CertificateRefused,
    ClockSkewed,
    Forged,
    IdentityError,
    InvalidClusterName,
    InvitationRefused,
    LedgerFull,
    Malformed,
    NoCluster,
    NotKeeper,
    ScopeRefused,
    TokenRefused,
    UnusableFile,
    VersionMismatch,
)
from node.identity.files import private_folder, read_private, write_private
from node.identity.ids import ClusterId, NodeId, parse_cluster_name, parse_node_id
from node.identity.invitations import Invitation, InvitationBook, OpenInvitation
from node.identity.join import (
    JoinAnswer,
    Joined,
    JoinRefusal,
    JoinRequest,
    Membership,
    PendingJoin,
    Software,
    accept_join_answer,
    answer_join,
    answer_renewal,
    check_clock,
    decode_join_answer,
    decode_join_request,
    make_join_request,
    make_renewal_request,
    refusal,
    refusal_error,
)
from node.identity.keys import NodeKeys
from node.identity.ledger import Ledger, Record, decode_records, encode_records
from node.identity.root import ClusterRoot, TrustAnchor
from node.identity.signing import Signed
from node.identity.store import Identity, IdentityStore
from node.identity.tls import (
    check_peer,
    handshake_fault,
    join_context,
    peer_context,
    peer_node_id,
    server_context,
    unchecked_context,
)
from node.identity.tokens import SCOPES, Grant, IssuedToken, Scope, TokenVerifier, issue_token

__all__ = [
    "SCOPES",
    "AlreadyMember",
    "CertificateRefused",
    "ClockSkewed",
    "ClusterId",
    "ClusterRoot",
    "Forged",
    "Grant",
    "Identity",
    "IdentityError",
    "IdentityStore",
    "InvalidClusterName",
    "Invitation",
    "InvitationBook",
    "InvitationRefused",
    "IssuedToken",
    "JoinAnswer",
    "JoinRefusal",
    "JoinRequest",
    "Joined",
    "Ledger",
    "LedgerFull",
    "Malformed",
    "Membership",
    "NoCluster",
    "NodeId",
    "NodeKeys",
    "NodeNames",
    "NotKeeper",
    "OpenInvitation",
    "PendingJoin",
    "Record",
    "Scope",
    "ScopeRefused",
    "Signed",
    "Software",
    "TokenRefused",
    "TokenVerifier",
    "TrustAnchor",
    "UnusableFile",
    "VersionMismatch",
    "accept_join_answer",
    "answer_join",
    "answer_renewal",
    "check_certificate",
    "check_clock",
    "check_peer",
    "decode_join_answer",
    "decode_join_request",
    "decode_records",
    "encode_records",
    "handshake_fault",
    "issue_certificate",
    "issue_token",
    "join_context",
    "make_join_request",
    "make_renewal_request",
    "parse_cluster_name",
    "parse_node_id",
    "peer_context",
    "peer_node_id",
    "private_folder",
    "read_private",
    "refusal",
    "refusal_error",
    "server_context",
    "unchecked_context",
    "write_private",
]
