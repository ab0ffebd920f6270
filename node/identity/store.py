"""What this machine knows of itself on disk: one folder, mode 0700, that is there whole or not at all.

```
cluster/identity/   ca.pem         the cluster's certificate; public
                    root.key       the root key, on keepers only
                    identity.key   this node's Ed25519 key
                    tls.key        this node's TLS key; tls.crt its certificate
                    ledger         signed records: revocations, tokens' names, the cluster's name
                    invitations    invitations made here
                    name           this node's name for people
```
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from node.identity.certificates import NodeNames, RenewalReason, check_certificate, issue_certificate, renewal_due
from node.identity.errors import (
    AlreadyMember,
    CertificateRefused,
    Forged,
    InvitationRefused,
    Malformed,
    NoCluster,
    NotKeeper,
    UnusableFile,
)
from node.identity.files import (
    private_folder,
    publish_folder,
    read_private,
    remove_folder,
    remove_partials,
    write_private,
)
from node.identity.ids import ClusterId, NodeId, parse_cluster_name
from node.identity.invitations import Invitation, InvitationBook
from node.identity.join import JoinAnswer, Joined, JoinRequest, Membership, Software, answer_join, answer_renewal
from node.identity.keys import UNREADABLE, NodeKeys, identity_key_from_pem, private_pem, tls_key_from_pem
from node.identity.ledger import Ledger
from node.identity.root import ClusterRoot, TrustAnchor
from node.identity.signing import Signed
from node.identity.tls import peer_context, server_context
from node.identity.tokens import TokenVerifier

FOLDER = "identity"
T = TypeVar("T")


class Identity:
    """This machine as a member of its cluster. For one event loop; disk errors pass through as OSError.

    Attributes:
        anchor: the cluster's public half; `root`: its secret half, None on a member that is no keeper.
        keys, node_id, node_name, certificate: this node.
        ledger: what the cluster knows of revocations and tokens; invitations: those made here.
    """

    def __init__(self, folder: Path, *, now_s: float) -> None:
        """Read everything. Raises: UnusableFile: a file is missing, damaged, or open to others."""
        self._folder = folder
        self.anchor = _read(folder / "ca.pem", TrustAnchor.from_pem)
        root_path = folder / "root.key"
        self.root = _read(root_path, ClusterRoot.from_bytes) if root_path.exists() else None
        self.keys = NodeKeys(
            _read(folder / "identity.key", identity_key_from_pem), _read(folder / "tls.key", tls_key_from_pem)
        )
        self.node_id: NodeId = self.keys.node_id
        self.node_name = read_private(folder / "name").decode(errors="replace")
        self.certificate = _read(self.certificate_path, _certificate_from_pem)
        self.ledger = Ledger(self.anchor, folder / "ledger", now_s=now_s)
        self.invitations = InvitationBook(folder / "invitations")
        if self.root is not None and self.root.anchor.raw_root_key != self.anchor.raw_root_key:
            raise UnusableFile(root_path, "belongs to another cluster")
        if self.certificate.public_key() != self.keys.tls.public_key():
            raise UnusableFile(self.certificate_path, "belongs to another key")

    @property
    def ca_path(self) -> Path:
        """The cluster's certificate, PEM."""
        return self._folder / "ca.pem"

    @property
    def certificate_path(self) -> Path:
        """This node's certificate, PEM; replaced at each renewal."""
        return self._folder / "tls.crt"

    @property
    def key_path(self) -> Path:
        """The key of `certificate_path`, PEM; the same for the node's whole life."""
        return self._folder / "tls.key"

    @property
    def cluster_id(self) -> ClusterId:
        """The cluster this machine belongs to."""
        return self.anchor.cluster_id

    @property
    def cluster_name(self) -> str:
        """The cluster's name for people, and before `.local`."""
        return self.ledger.cluster_name() or self.cluster_id

    @property
    def removed(self) -> bool:
        """Whether the cluster removed this machine."""
        return self.ledger.is_node_revoked(self.node_id)

    def need_root(self) -> ClusterRoot:
        """The root, to sign with. Raises NotKeeper."""
        if self.root is None:
            raise NotKeeper
        return self.root

    def call_node(self, name: str) -> None:
        """Have people see this node by another name from now on; "": by the one it has."""
        if name and name != self.node_name:
            write_private(self._folder / "name", name.encode())
            self.node_name = name

    def token_verifier(self) -> TokenVerifier:
        """Checks this cluster's tokens, revocations included."""
        return TokenVerifier(self.anchor, self.ledger.is_token_revoked)

    def server_context(self) -> ssl.SSLContext:
        """For the LAN port; see `node.identity.tls.server_context`."""
        return server_context(self.anchor, self.certificate_path, self.key_path)

    def peer_context(self) -> ssl.SSLContext:
        """For dialling members; see `node.identity.tls.peer_context`."""
        return peer_context(self.anchor, self.certificate_path, self.key_path)

    def invite(
        self, addresses: Collection[str], *, lifetime_s: float, now_s: float, uses: int = 1, keeper: bool = True
    ) -> Invitation:
        """Make an invitation, which is withdrawn when a node is removed. Raises NotKeeper, ValueError."""
        return self.invitations.invite(
            self.need_root(),
            cluster_name=self.cluster_name,
            addresses=addresses,
            lifetime_s=lifetime_s,
            now_s=now_s,
            uses=uses,
            keeper=keeper,
            removals=len(self.ledger.removed_nodes),
        )

    def answer_join(self, request: JoinRequest, *, software: Software, now_s: float) -> Joined:
        """Let a machine in; the invitation's use is on disk when this returns. Raises what `join.answer_join` does."""
        invitation = self.invitations.find(request.invitation)
        if invitation.removals != len(self.ledger.removed_nodes):
            raise InvitationRefused("unknown")
        joined = answer_join(
            request,
            invitation,
            root=self.need_root(),
            is_revoked=self.ledger.is_node_revoked,
            cluster_name=self.cluster_name,
            software=software,
            answered_by=self.node_id,
            ledger=self.ledger.records(),
            now_s=now_s,
        )
        self.invitations.keep(joined.after, now_s=now_s)
        return joined

    def answer_renewal(self, request: JoinRequest, peer: NodeId, *, now_s: float) -> JoinAnswer:
        """Certify a member anew. Raises what `join.answer_renewal` does, and NotKeeper."""
        return answer_renewal(
            request,
            peer,
            root=self.need_root(),
            is_revoked=self.ledger.is_node_revoked,
            cluster_name=self.cluster_name,
            answered_by=self.node_id,
            now_s=now_s,
        )

    def renewal_due(self, names: NodeNames, *, now_s: float) -> RenewalReason | None:
        """Why this node needs a new certificate now; None: it does not."""
        return renewal_due(self.certificate, self.anchor, names, self.cluster_name, now_s=now_s)

    def renew(self, names: NodeNames, *, now_s: float) -> None:
        """Certify this node anew, which a keeper can do alone. Raises NotKeeper, CertificateRefused: it was removed."""
        if self.removed:
            raise CertificateRefused("revoked")
        certificate = issue_certificate(
            self.need_root(),
            node=self.node_id,
            tls_key=self.keys.tls.public_key(),
            names=names,
            cluster_name=self.cluster_name,
            now_s=now_s,
        )
        self.take_certificate(certificate, now_s=now_s)

    def take_certificate(self, certificate: x509.Certificate, *, now_s: float) -> None:
        """Use a new certificate from now on. Raises: CertificateRefused: it is not for this node."""
        check_certificate(certificate, self.anchor, now_s=now_s, node=self.node_id, tls_key=self.keys.tls.public_key())
        write_private(self.certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
        self.certificate = certificate

    def remove_node(self, node: NodeId, *, now_s: float) -> Signed:
        """Revoke a member, and with it all invitations made by members that do not know of it yet. Raises NotKeeper."""
        return self.ledger.revoke_node(self.need_root(), node, now_s=now_s)


class IdentityStore:
    """Where the identity is kept: at most one, below `cluster_folder`."""

    def __init__(self, cluster_folder: Path) -> None:
        self._parent = cluster_folder
        self._folder = cluster_folder / FOLDER

    @property
    def exists(self) -> bool:
        """Whether this machine belongs to a cluster."""
        return self._folder.is_dir()

    def open(self, *, now_s: float) -> Identity:
        """Raises: NoCluster; UnusableFile: something in it is damaged, or open to others."""
        if not self.exists:
            raise NoCluster
        return Identity(self._folder, now_s=now_s)

    def clear_away(self) -> None:
        """Remove what a daemon that was killed has left half-written; for the one that follows it. Raises OSError."""
        remove_partials(self._parent)

    def create_cluster(
        self, name: str, *, node_name: str, names: NodeNames, now_s: float, domains: Iterable[str] = ()
    ) -> Identity:
        """Make a cluster with this machine as its first member. Raises InvalidClusterName, AlreadyMember."""
        cluster_name = parse_cluster_name(name)
        root, keys = ClusterRoot.create(now_s=now_s, domains=domains), NodeKeys.generate()
        certificate = issue_certificate(
            root,
            node=keys.node_id,
            tls_key=keys.tls.public_key(),
            names=names,
            cluster_name=cluster_name,
            now_s=now_s,
        )
        named = Ledger(root.anchor, now_s=now_s).name_cluster(root, cluster_name, now_s=now_s)
        membership = Membership(root.anchor, root, keys, certificate, cluster_name, (named,))
        return self.save(membership, node_name=node_name, now_s=now_s)

    def save(self, membership: Membership, *, node_name: str, now_s: float) -> Identity:
        """Become a member. Raises: AlreadyMember; Forged, Malformed: the ledger that came with it is wrong."""
        if self.exists:
            raise AlreadyMember(self.open(now_s=now_s).cluster_name)
        private_folder(self._parent)
        for unfinished in self._parent.glob(f".{FOLDER}.*"):
            remove_folder(unfinished)
        partial = private_folder(self._parent / f".{FOLDER}.new")
        keys = membership.keys
        write_private(partial / "ca.pem", membership.anchor.ca_pem)
        if membership.root is not None:
            write_private(partial / "root.key", membership.root.to_bytes())
        write_private(partial / "identity.key", private_pem(keys.identity))
        write_private(partial / "tls.key", private_pem(keys.tls))
        write_private(partial / "tls.crt", membership.certificate.public_bytes(serialization.Encoding.PEM))
        write_private(partial / "name", node_name.encode())
        Ledger(membership.anchor, partial / "ledger", now_s=now_s).merge(membership.ledger, now_s=now_s)
        publish_folder(partial, self._folder)
        return self.open(now_s=now_s)

    def forget(self) -> None:
        """Belong to no cluster any more: remove keys, certificate and all. The others are told by a revocation."""
        remove_folder(self._folder)


def _certificate_from_pem(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except UNREADABLE:
        raise Malformed("certificate") from None


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    """Parse a file of ours. Raises UnusableFile."""
    content = read_private(path)
    try:
        return parse(content)
    except (Malformed, Forged) as error:
        raise UnusableFile(path, str(error)) from None
