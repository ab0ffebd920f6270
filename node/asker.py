"""On whose behalf this task works: the grant of the token that a request came with.

Set by the door of the LAN port for the task that serves a request, and read where names are looked up, queues are
kept and tokens are counted. None: the machine's own user (loopback), or another node, which has counted already.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.identity import Grant

ASKER: ContextVar[Grant | None] = ContextVar("asker", default=None)
