"""The plain port's answer to "is it the daemon's own user who asks?": a key that only that user can read.

Whoever reaches the port may use models, as with Ollama: other users of this machine, web pages that Origin lets in,
and on a wider address the whole LAN. Changing the cluster is more than that, since members run code on each other. So
it takes the key in the daemon's record (`node.daemon_file`); the LAN port asks for tokens and certificates instead.
"""

from __future__ import annotations

import secrets
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import Unauthenticated, fault_of
from api.request_record import note_error
from api.stream import fault_response
from node.daemon_file import daemon_file_name

PREFIX: Final = "/api/cluster"
# How things stand is no secret. What is added below the prefix is closed until somebody decides otherwise.
OPEN_PATHS: Final = frozenset({PREFIX, f"{PREFIX}/nodes", f"{PREFIX}/discover"})
READING: Final = frozenset({"GET", "HEAD"})


class OwnUserGate:
    """A plain ASGI layer around the application of the plain port."""

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        self._app, self._expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what would change the cluster and comes without the key; pass on the rest."""
        if scope["type"] == "http" and _needs_key(scope["method"], scope["path"]) and not self._has_key(scope):
            error = Unauthenticated(_complaint(scope))
            fault = fault_of(error)
            note_error(error, fault.status)
            await fault_response(fault, scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and secrets.compare_digest(given[0], self._expected)


def _needs_key(method: str, path: str) -> bool:
    below = path == PREFIX or path.startswith(f"{PREFIX}/")
    return below and not (method in READING and path in OPEN_PATHS)


def _complaint(scope: Scope) -> str:
    file = daemon_file_name((scope.get("server") or ("", "<port>"))[1])
    return (
        "only the user whose node this is may do that: run `ayni` as that user, or send 'Authorization: Bearer <key>' "
        f"with the key in {file} in the node's state folder, which is another one after each start"
    )
