"""TLS between members, and for clients: contexts, and who is at the other end.

All of it is TLS 1.3. The library checks that a certificate is this cluster's and in date; whose it is, and whether that
node was removed, is checked here (`peer_node_id`, `check_peer`), because a kept connection outlives a revocation: ask
`Ledger.is_node_revoked` with each request, not only when a connection begins.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from node.identity.certificates import node_in_uris
from node.identity.errors import CertificateFault, CertificateRefused
from node.identity.ids import NodeId
from node.identity.root import TrustAnchor

TlsObject: TypeAlias = ssl.SSLObject | ssl.SSLSocket

_NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not name


def server_context(anchor: TrustAnchor, certificate: Path, key: Path) -> ssl.SSLContext:
    """For the LAN port: members show their certificate, clients show none and bring a token.

    Load a renewed certificate with `context.load_cert_chain(certificate, key)`; open connections go on.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, anchor)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def peer_context(anchor: TrustAnchor, certificate: Path, key: Path) -> ssl.SSLContext:
    """For dialling members. Names are not checked, as addresses change: pin the node with `check_peer`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, anchor)
    context.load_cert_chain(certificate, key)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def join_context(anchor: TrustAnchor) -> ssl.SSLContext:
    """For a machine that wants to join: it has no certificate yet, and checks that it speaks to this cluster.

    Times are not checked here: a wrong clock is to be named by the member's answer, not by a failed handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, anchor)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


def unchecked_context() -> ssl.SSLContext:
    """Only to fetch `ca.pem`, which proves itself (`TrustAnchor.from_pem` with the invitation's root key)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def peer_node_id(tls: TlsObject, is_revoked: Callable[[NodeId], bool]) -> NodeId | None:
    """The member at the other end.

    Returns: None: it showed no certificate.
    Raises: CertificateRefused: the certificate names no node, or a node that was removed.
    """
    certificate = tls.getpeercert()  # empty unless the library has verified it
    if not certificate:
        return None
    names = certificate.get("subjectAltName", ())
    node = node_in_uris([str(name[1]) for name in names if isinstance(name, tuple) and name[0] == "URI"])
    if is_revoked(node):
        raise CertificateRefused("revoked")
    return node


def check_peer(tls: TlsObject, expected: NodeId | None, is_revoked: Callable[[NodeId], bool]) -> NodeId:
    """Make sure that the member that was dialled is the one that answered. `expected` None: any member.

    Raises: CertificateRefused.
    """
    node = peer_node_id(tls, is_revoked)
    if node is None:
        raise CertificateRefused("absent")
    if expected is not None and node != expected:
        raise CertificateRefused("another node")
    return node


def handshake_fault(error: ssl.SSLError) -> CertificateFault | Literal["no tls"]:
    """What a failed handshake with a member means, so that a wrong clock is not taken for a stranger."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return "no tls"
    match error.verify_code:
        case 9:  # X509_V_ERR_CERT_NOT_YET_VALID
            return "not yet valid"
        case 10:  # X509_V_ERR_CERT_HAS_EXPIRED
            return "expired"
        case _:
            return "another cluster"


def _harden(context: ssl.SSLContext, anchor: TrustAnchor) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=anchor.ca_pem.decode())
    # A resumed session would not show its certificate again; connections are kept, so it would gain nothing.
    context.options |= ssl.OP_NO_TICKET
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
