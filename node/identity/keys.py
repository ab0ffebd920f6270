"""A node's two keys, and how keys are written.

The Ed25519 key is the identity: the node id is its hash. The P-256 key is for TLS alone, because neither browsers, nor
the TLS of macOS and Windows, nor the gRPC inside Ray speak TLS with Ed25519.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from node.identity.errors import Malformed
from node.identity.ids import NodeId, node_id_of

# All that cryptography raises for bytes that are no key or certificate, or one of a kind that it does not know.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
)


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The secret of one node; it never leaves the machine."""

    identity: Ed25519PrivateKey = field(repr=False)
    tls: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """New keys, hence a new node."""
        return cls(Ed25519PrivateKey.generate(), new_tls_key())

    @property
    def node_id(self) -> NodeId:
        """The node these keys make."""
        return node_id_of(raw_public(self.identity.public_key()))


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """A key for certificates."""
    return ec.generate_private_key(ec.SECP256R1())


def raw_public(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of an Ed25519 public key."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def public_from_raw(raw: bytes) -> Ed25519PublicKey:
    """Raises Malformed."""
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except UNREADABLE:
        raise Malformed("public key") from None


def tls_public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """A TLS public key as DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def tls_public_from(der: bytes) -> ec.EllipticCurvePublicKey:
    """Raises Malformed: anything but a P-256 key."""
    try:
        key = serialization.load_der_public_key(der)
    except UNREADABLE:
        raise Malformed("TLS key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Malformed("TLS key")
    return key


def private_pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 PEM: the file's mode protects it, as a daemon starts without a person."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def identity_key_from_pem(pem: bytes) -> Ed25519PrivateKey:
    """Raises Malformed."""
    key = _load_pem(pem)
    if not isinstance(key, Ed25519PrivateKey):
        raise Malformed("Ed25519 key")
    return key


def tls_key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises Malformed."""
    key = _load_pem(pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Malformed("TLS key")
    return key


def _load_pem(pem: bytes) -> object:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except UNREADABLE:
        # Not chained: the parser's message could quote what it read.
        raise Malformed("private key") from None
