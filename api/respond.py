"""What every route needs: the daemon it serves, and a plain JSON answer."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from api.daemon import Daemon

JSON = "application/json; charset=utf-8"


def daemon_of(request: Request) -> Daemon:
    """The daemon that this application serves."""
    daemon: Daemon = request.app.state.daemon
    return daemon


def json_response(data: Any) -> Response:
    """A whole answer; bytes are taken to be JSON already."""
    return Response(data if isinstance(data, bytes) else msgspec.json.encode(data), media_type=JSON)
