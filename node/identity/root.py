"""What a cluster is: an Ed25519 root key, and the certificate authority for TLS that this key vouches for.

`TrustAnchor` is the public half, which every member and every client may know; `ClusterRoot` is the secret half, held
by the machines that may invite, renew and issue tokens ("keepers"). The authority is a P-256 key of its own because
much of the world's TLS can't verify Ed25519; its certificate, `ca.pem`, carries the root's public key and signature
in an alternative name, so this one file binds everything that TLS says to the root that an invitation names.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID
from msgspec import Struct, msgpack

from node.decoding import DECODE_ERRORS
from node.identity.errors import Forged, Malformed
from node.identity.ids import ClusterId, cluster_id_of
from node.identity.keys import (
    UNREADABLE,
    identity_key_from_pem,
    new_tls_key,
    private_pem,
    public_from_raw,
    raw_public,
    tls_key_from_pem,
    tls_public_bytes,
)
from node.identity.signing import Purpose, Signed, sign, verify

MAX_PEM_BYTES = 16 << 10
AUTHORITY_LIFETIME = timedelta(days=20 * 365)
# A client that trusts ca.pem must not thereby trust this cluster with the rest of the internet's names.
LOCAL_DOMAINS = ("local", "localhost")
_ROOT_SCHEME = "ayni:root:"


class TrustAnchor:
    """The public half of a cluster: enough to check everything its keepers sign.

    Attributes:
        authority: the certificate that signs node certificates.
        root_key: the Ed25519 key that signs everything else.
    """

    def __init__(self, authority: x509.Certificate) -> None:
        """Raises: Malformed: not one of our authorities; Forged: no root vouches for it."""
        self.authority = authority
        self.root_key = _vouching_root(authority)
        self.raw_root_key = raw_public(self.root_key)

    @classmethod
    def from_pem(cls, pem: bytes, *, root_key: bytes | None = None) -> Self:
        """Read `ca.pem`.

        Args:
            root_key: the raw root key it must belong to; None: whichever it says.
        Raises: Malformed, Forged.
        """
        if len(pem) > MAX_PEM_BYTES:
            raise Malformed("cluster certificate")
        try:
            certificate = x509.load_pem_x509_certificate(pem)
        except UNREADABLE:
            raise Malformed("cluster certificate") from None
        anchor = cls(certificate)
        if root_key is not None and anchor.raw_root_key != root_key:
            raise Forged("cluster certificate")
        return anchor

    @cached_property
    def cluster_id(self) -> ClusterId:
        """The id of the cluster: of its root key."""
        return cluster_id_of(self.raw_root_key)

    @cached_property
    def ca_pem(self) -> bytes:
        """What clients are given so that they can check our certificates. Public."""
        return self.authority.public_bytes(serialization.Encoding.PEM)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate, 64 hex digits, as `openssl x509 -fingerprint -sha256` computes it."""
        return self.authority.fingerprint(hashes.SHA256()).hex()

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """DNS names end in one of these, or the certificate is not accepted by anybody."""
        constraints = self.authority.extensions.get_extension_for_class(x509.NameConstraints).value
        return tuple(name.value for name in constraints.permitted_subtrees or () if isinstance(name, x509.DNSName))

    def verify(self, purpose: Purpose, signed: Signed) -> bytes:
        """The payload, if the cluster's root signed it for `purpose`. Raises Forged."""
        return verify(self.root_key, purpose, signed)


class _RootFile(Struct, frozen=True):
    signing: bytes
    tls: bytes
    authority: bytes

    def __repr__(self) -> str:
        return "_RootFile()"


@dataclass(frozen=True, slots=True)
class ClusterRoot:
    """The secret half: whoever holds it can make members and tokens."""

    anchor: TrustAnchor
    signing_key: Ed25519PrivateKey = field(repr=False)
    authority_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, *, now_s: float, domains: Iterable[str] = ()) -> Self:
        """Make a new cluster's root.

        Args:
            domains: DNS domains besides `.local` that its machines have names in, such as "office.example".
        """
        signing_key, authority_key = Ed25519PrivateKey.generate(), new_tls_key()
        authority = _authority(signing_key, authority_key, (*LOCAL_DOMAINS, *domains), now_s)
        return cls(TrustAnchor(authority), signing_key, authority_key)

    def sign(self, purpose: Purpose, payload: bytes) -> Signed:
        """Sign as the cluster."""
        return sign(self.signing_key, purpose, payload)

    def to_bytes(self) -> bytes:
        """Everything, for a file with mode 0600 or a member's TLS channel. Secret."""
        return msgpack.encode(
            _RootFile(private_pem(self.signing_key), private_pem(self.authority_key), self.anchor.ca_pem)
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Raises: Malformed, Forged: its parts do not belong together."""
        try:
            parts = msgpack.decode(content, type=_RootFile)
        except DECODE_ERRORS:  # not chained: their texts may quote what they read
            raise Malformed("root key") from None
        anchor = TrustAnchor.from_pem(parts.authority)
        signing_key, authority_key = identity_key_from_pem(parts.signing), tls_key_from_pem(parts.tls)
        if raw_public(signing_key.public_key()) != anchor.raw_root_key or (
            authority_key.public_key() != anchor.authority.public_key()
        ):
            raise Forged("root key")
        return cls(anchor, signing_key, authority_key)


def _authority(
    signing_key: Ed25519PrivateKey, authority_key: ec.EllipticCurvePrivateKey, domains: tuple[str, ...], now_s: float
) -> x509.Certificate:
    public = authority_key.public_key()
    root_key = raw_public(signing_key.public_key())
    vouched = sign(signing_key, "authority", tls_public_bytes(public))
    # The id, not the name, stands in the subject: certificates name their issuer, and a cluster can be renamed.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Ayni cluster {cluster_id_of(root_key)}")])
    now = datetime.fromtimestamp(now_s, UTC)
    usage = {
        "digital_signature": False,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": True,
        "crl_sign": True,
        "encipher_only": False,
        "decipher_only": False,
    }
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.NameConstraints([x509.DNSName(domain) for domain in domains], None),
            critical=True,
        )
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"{_ROOT_SCHEME}{_text(root_key)}:{_text(vouched.signature)}")]
            ),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )


def _vouching_root(authority: x509.Certificate) -> Ed25519PublicKey:
    """The root that vouches for this authority's key. Raises Malformed, Forged."""
    try:
        public = authority.public_key()
        names = authority.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        vouchers = [
            uri.removeprefix(_ROOT_SCHEME)
            for uri in names.get_values_for_type(x509.UniformResourceIdentifier)
            if uri.startswith(_ROOT_SCHEME)
        ]
        [voucher] = vouchers
        key_text, signature_text = voucher.split(":")
        root_key, signature = public_from_raw(_raw(key_text)), _raw(signature_text)
        authority.verify_directly_issued_by(authority)
    except UNREADABLE:
        raise Malformed("cluster certificate") from None
    except InvalidSignature:
        raise Forged("cluster certificate") from None
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise Malformed("cluster certificate")
    verify(root_key, "authority", Signed(tls_public_bytes(public), signature))
    return root_key


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise Malformed("cluster certificate") from None
