"""What asking about the cluster can be answered with, as errors that the API knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from api.errors import BadRequest, Conflict, NotGranted, OutOfReach
from node.identity import (
    AlreadyMember,
    CertificateRefused,
    ClockSkewed,
    IdentityError,
    InvalidClusterName,
    InvitationRefused,
    NoCluster,
    NotKeeper,
    VersionMismatch,
)
from node.peers import CallRefused, PeerError, PeerRefused


@contextmanager
def in_words() -> Iterator[None]:
    """Tell clients of errors between nodes and of trust, each with the status that fits."""
    try:
        yield
    except (AlreadyMember, NoCluster, NotKeeper, VersionMismatch, ClockSkewed) as error:
        raise Conflict(str(error)) from None
    except InvalidClusterName as error:
        raise BadRequest(str(error), "name") from None
    except (InvitationRefused, CertificateRefused) as error:
        raise NotGranted(str(error)) from None
    except IdentityError as error:
        raise BadRequest(str(error)) from None
    except (PeerRefused, CallRefused) as error:
        raise Conflict(str(error)) from None
    except PeerError as error:
        raise OutOfReach(str(error)) from None
