"""Node certificates: issue them, check them, and say when a new one is due.

A certificate says "the holder of this TLS key is node X of this cluster, reachable under these names". It lives for
weeks, not years, so that a machine that was forgotten loses its access by itself. Pure: time is passed in.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.identity.errors import CertificateRefused, Malformed
from node.identity.ids import NodeId, parse_node_id
from node.identity.keys import UNREADABLE
from node.identity.root import ClusterRoot, TrustAnchor

NODE_URI = "ayni:node:"
NODE_LIFETIME_S = 30 * 86400.0
# Two thirds of its life are left to whoever was switched off for a while.
RENEW_BEFORE_S = NODE_LIFETIME_S / 3
# How far clocks of two members may differ before certificates stop working between them.
BACKDATED_S = 3600.0
MAX_ADDRESSES = 32
MAX_HOST_NAMES = 16
LOOPBACK = ("127.0.0.1", "::1")
_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")

RenewalReason: TypeAlias = Literal["expiring", "names changed"]


@dataclass(frozen=True, slots=True)
class NodeNames:
    """Where a node can be reached: IP addresses and host names, in a fixed order, loopback not among them."""

    addresses: tuple[str, ...] = ()
    host_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, addresses: tuple[str, ...], host_names: tuple[str, ...] = ()) -> NodeNames:
        """Names as a machine reports them, without doubles, zones and what is no name at all."""
        return cls(_addresses(addresses), _host_names(host_names))


def issue_certificate(
    root: ClusterRoot,
    *,
    node: NodeId,
    tls_key: ec.EllipticCurvePublicKey,
    names: NodeNames,
    cluster_name: str,
    now_s: float,
    lifetime_s: float = NODE_LIFETIME_S,
) -> x509.Certificate:
    """Certify a node, as server and as client.

    Its names are the node's own, those of loopback, and `<cluster_name>.local`. A host name outside the domains that
    the cluster was created with is left out: it would make the whole certificate invalid.
    """
    anchor = root.anchor
    now = datetime.fromtimestamp(now_s, UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Ayni node {node}")]))
        .issuer_name(anchor.authority.subject)
        .public_key(tls_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=BACKDATED_S))
        .not_valid_after(now + timedelta(seconds=lifetime_s))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(tls_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                anchor.authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.UniformResourceIdentifier(NODE_URI + node),
                    *(x509.DNSName(name) for name in _certified_hosts(anchor, names, cluster_name)),
                    *(x509.IPAddress(ipaddress.ip_address(text)) for text in _certified_addresses(names)),
                ]
            ),
            critical=False,
        )
        .sign(root.authority_key, hashes.SHA256())
    )


def check_certificate(
    certificate: x509.Certificate,
    anchor: TrustAnchor,
    *,
    now_s: float,
    node: NodeId | None = None,
    tls_key: ec.EllipticCurvePublicKey | None = None,
) -> NodeId:
    """The node that this certificate names. Whether that node was removed is for `Ledger.is_node_revoked` to say.

    Args:
        node: whom it must name. `tls_key`: the key it must be for. None: any.
    Raises: CertificateRefused.
    """
    try:
        certificate.verify_directly_issued_by(anchor.authority)
    except (InvalidSignature, *UNREADABLE):
        raise CertificateRefused("another cluster") from None
    now = datetime.fromtimestamp(now_s, UTC)
    if now < certificate.not_valid_before_utc:
        raise CertificateRefused("not yet valid")
    if now > certificate.not_valid_after_utc:
        raise CertificateRefused("expired")
    named = certified_node(certificate)
    if node is not None and named != node:
        raise CertificateRefused("another node")
    if tls_key is not None and certificate.public_key() != tls_key:
        raise CertificateRefused("another key")
    return named


def certified_node(certificate: x509.Certificate) -> NodeId:
    """The node that a certificate names; who signed it is not checked. Raises CertificateRefused."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except UNREADABLE:
        raise CertificateRefused("no node id") from None
    return node_in_uris(names.get_values_for_type(x509.UniformResourceIdentifier))


def node_in_uris(uris: list[str]) -> NodeId:
    """The one node id among a certificate's URIs. Raises CertificateRefused: none, several, or misspelt."""
    named = [uri.removeprefix(NODE_URI) for uri in uris if uri.startswith(NODE_URI)]
    if len(named) != 1:
        raise CertificateRefused("no node id")
    try:
        return parse_node_id(named[0])
    except Malformed:
        raise CertificateRefused("no node id") from None


def renewal_due(
    certificate: x509.Certificate, anchor: TrustAnchor, names: NodeNames, cluster_name: str, *, now_s: float
) -> RenewalReason | None:
    """Why a new certificate is needed now; None: it is not.

    1. It ends soon. 2. The machine has an address or a name, or the cluster a name, that is not in it. An address that
    is gone is no reason: laptops come and go between the same few networks.
    """
    if certificate.not_valid_after_utc.timestamp() - now_s < RENEW_BEFORE_S:
        return "expiring"
    certified = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in certified.get_values_for_type(x509.IPAddress)}
    hosts = set(certified.get_values_for_type(x509.DNSName))
    if not addresses.issuperset(_certified_addresses(names)) or not hosts.issuperset(
        _certified_hosts(anchor, names, cluster_name)
    ):
        return "names changed"
    return None


def _certified_addresses(names: NodeNames) -> tuple[str, ...]:
    return _addresses((*LOOPBACK, *names.addresses))


def _certified_hosts(anchor: TrustAnchor, names: NodeNames, cluster_name: str) -> tuple[str, ...]:
    domains = anchor.domains
    wanted = _host_names(("localhost", f"{cluster_name}.local", *names.host_names))
    return tuple(host for host in wanted if any(host == domain or host.endswith(f".{domain}") for domain in domains))


def _addresses(texts: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for text in texts:
        try:
            # A zone ("fe80::1%eth0") means something on that machine only; certificates have none.
            found[str(ipaddress.ip_address(text.partition("%")[0]))] = None
        except ValueError:
            continue
    return tuple(found)[: MAX_ADDRESSES + len(LOOPBACK)]


def _host_names(texts: tuple[str, ...]) -> tuple[str, ...]:
    names = (text.lower().rstrip(".") for text in texts)
    return tuple(dict.fromkeys(name for name in names if _HOST_NAME.fullmatch(name)))[: MAX_HOST_NAMES + 2]
