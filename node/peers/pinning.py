"""TLS to one particular member: a handshake with anybody else fails, before a byte of ours has been sent."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from node.identity import CertificateRefused, NodeId, check_peer


def pin(context: ssl.SSLContext, node: NodeId | None, is_revoked: Callable[[NodeId], bool]) -> ssl.SSLContext:
    """Have every handshake of this context check whose certificate it was; None: any member that is not removed.

    The event loop makes its TLS objects through the context (`SSLContext.sslobject_class`), so the check can't be
    forgotten by whoever uses the connection.
    """

    class Pinned(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()  # raises SSLWantReadError until it is done
            try:
                check_peer(self, node, is_revoked)
            except CertificateRefused as refusal:
                raise ssl.SSLCertVerificationError(str(refusal)) from None

    context.sslobject_class = Pinned
    return context
