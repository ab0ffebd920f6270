"""Signed bytes: what is signed, by which key, and what for.

The purpose is part of what is signed, so that a signature made for one thing never counts for another. Payloads are
verified before anything in them is parsed, and kept as the bytes that were signed, so no encoding has to be canonical.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from node.identity.errors import Forged

Purpose: TypeAlias = Literal["authority", "invitation", "join request", "join answer", "record"]


class Signed(Struct, frozen=True, array_like=True):
    """Bytes and an Ed25519 signature over them and a purpose."""

    payload: bytes
    signature: bytes

    def __repr__(self) -> str:
        return f"Signed({len(self.payload)} bytes)"  # some payloads are secret


def sign(key: Ed25519PrivateKey, purpose: Purpose, payload: bytes) -> Signed:
    """Sign `payload` for one purpose."""
    return Signed(payload, key.sign(in_context(purpose, payload)))


def verify(key: Ed25519PublicKey, purpose: Purpose, signed: Signed) -> bytes:
    """The payload, if `key` signed it for `purpose`. Raises Forged."""
    try:
        key.verify(signed.signature, in_context(purpose, signed.payload))
    except InvalidSignature:
        raise Forged(purpose) from None
    return signed.payload


def in_context(purpose: Purpose, payload: bytes) -> bytes:
    """What is really signed. A JWT's signing input begins with "eyJ", so it can be none of these."""
    return b"ayni " + purpose.encode() + b" v1\0" + payload
