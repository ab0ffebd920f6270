"""What can go wrong with who is who. No text here contains a key, a token, an invitation or any part of one.

IdentityError
├── InvalidClusterName   a cluster's name is not a DNS label
├── NoCluster            this machine belongs to no cluster
├── AlreadyMember        this machine belongs to a cluster already
├── NotKeeper            this machine does not hold the cluster's root key
├── UnusableFile         a file of ours is damaged, or others can read it
├── ClockSkewed          two clocks differ by minutes
├── VersionMismatch      two machines' software can't work together
├── Malformed            bytes from elsewhere are not what they should be
├── Forged               a signature does not match
├── CertificateRefused   a node certificate does not count; `reason` says why
├── InvitationRefused    an invitation does not count; `reason` says why
├── TokenRefused         a token does not count; `reason` says why
├── ScopeRefused         the token is good, but not for this
└── LedgerFull           too many tokens are alive at once
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

CertificateFault: TypeAlias = Literal[
    "absent", "another cluster", "expired", "not yet valid", "revoked", "no node id", "another node", "another key"
]
InvitationFault: TypeAlias = Literal["damaged", "unknown", "forged", "expired", "used up", "replayed"]
TokenFault: TypeAlias = Literal[
    "malformed", "algorithm", "another cluster", "signature", "audience", "expired", "not yet valid", "revoked"
]

_CERTIFICATE_TEXTS: dict[str, str] = {
    "absent": "the other side showed no node certificate",
    "another cluster": "the certificate was not issued by this cluster",
    "expired": "the certificate has expired (or a clock is wrong)",
    "not yet valid": "the certificate is not valid yet: the clock of one of the two machines is wrong",
    "revoked": "this machine was removed from the cluster",
    "no node id": "the certificate names no node",
    "another node": "the certificate belongs to another node than expected",
    "another key": "the certificate is not for this machine's key",
}
_INVITATION_TEXTS: dict[str, str] = {
    "damaged": "this is no invitation, or a part of its line is missing; copy the whole line",
    "unknown": "the invitation is not known here: it was withdrawn, or made by another machine",
    "forged": "the invitation is not genuine",
    "expired": "the invitation has expired; ask for a new one with `ayni cluster invite`",
    "used up": "the invitation has been used already; ask for a new one with `ayni cluster invite`",
    "replayed": "this request to join was already answered",
}
_TOKEN_TEXTS: dict[str, str] = {
    "malformed": "this is no token of Ayni",
    "algorithm": "the token is not signed the way this cluster signs",
    "another cluster": "the token belongs to another cluster",
    "signature": "the token is not genuine",
    "audience": "the token is meant for somebody else",
    "expired": "the token has expired",
    "not yet valid": "the token is not valid yet: the clock of the machine that issued it, or of this one, is wrong",
    "revoked": "the token was revoked",
}


class IdentityError(Exception):
    """Anything wrong with who somebody claims to be, or with what we know of ourselves."""


class InvalidClusterName(IdentityError):
    """The name can't be a host name below `.local`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"bad cluster name {self.name[:80]!r}: use up to 32 of a-z, 0-9 and -, with no - at either end"


class NoCluster(IdentityError):
    """Nothing of a cluster is stored here."""

    def __str__(self) -> str:
        return "this machine belongs to no cluster; see `ayni cluster create` and `ayni join`"


class AlreadyMember(IdentityError):
    """A machine belongs to one cluster at a time."""

    def __init__(self, cluster: str) -> None:
        super().__init__(cluster)
        self.cluster = cluster

    def __str__(self) -> str:
        return f"this machine belongs to cluster '{self.cluster}' already; leave it first with `ayni cluster leave`"


class NotKeeper(IdentityError):
    """Only a machine with the root key can sign."""

    def __str__(self) -> str:
        return "this machine does not hold the cluster's root key; run the command on a machine that does"


class UnusableFile(IdentityError):
    """A file that is ours alone is missing a part, or open to others; `reason` is meant for the operator."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ClockSkewed(IdentityError):
    """`ahead_s`: how far the other machine's clock is ahead of ours; negative: behind."""

    def __init__(self, ahead_s: float) -> None:
        super().__init__(ahead_s)
        self.ahead_s = ahead_s

    def __str__(self) -> str:
        side = "ahead of" if self.ahead_s > 0 else "behind"
        return f"the other machine's clock is {in_words(abs(self.ahead_s))} {side} this one's; set both by NTP"


class VersionMismatch(IdentityError):
    """Both machines must run the same version of `what`."""

    def __init__(self, what: str, theirs: str, ours: str) -> None:
        super().__init__(what, theirs, ours)
        self.what, self.theirs, self.ours = what, theirs, ours

    def __str__(self) -> str:
        return f"{self.what} {self.theirs} can't join a cluster with {self.what} {self.ours}; install the same version"


class Malformed(IdentityError):
    """Bytes from another machine could not be understood; `what` they should have been."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"damaged {self.what}"


class Forged(IdentityError):
    """`what` was not signed by whom it should have been."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"the signature of the {self.what} does not match"


class CertificateRefused(IdentityError):
    """A certificate does not make its holder a member of this cluster."""

    def __init__(self, reason: CertificateFault) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return _CERTIFICATE_TEXTS[self.reason]


class InvitationRefused(IdentityError):
    """An invitation does not open the cluster."""

    def __init__(self, reason: InvitationFault) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return _INVITATION_TEXTS[self.reason]


class TokenRefused(IdentityError):
    """A token is not accepted at all."""

    def __init__(self, reason: TokenFault) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return _TOKEN_TEXTS[self.reason]


class ScopeRefused(IdentityError):
    """The holder is known but may not do this; `need` is a scope or a model."""

    def __init__(self, token_name: str, need: str) -> None:
        super().__init__(token_name, need)
        self.token_name, self.need = token_name, need

    def __str__(self) -> str:
        return f"token '{self.token_name}' does not allow {self.need}"


class LedgerFull(IdentityError):
    """So many tokens look like a program's mistake, and every node has to keep them all."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most

    def __str__(self) -> str:
        return f"there are {self.most} tokens already; give them shorter lives, or share one between programs"


def in_words(seconds: float) -> str:
    """A duration for people, in its largest unit."""
    for unit, length_s in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} seconds"
