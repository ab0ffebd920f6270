"""A session must not outlive its daemon: a shell of 2 MB waits for the daemon's end and then kills the session.

Ray's processes are nobody's children and would stay for ever, 300 MB of them. The guard ends when it is told so,
or when its pipe ends, which happens however the daemon dies.
"""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Self

RELEASE_S = 2.0
# The raylet and all that does not end with it is in the process group of the command that started it; a group whose
# folder is gone was ended already.
_SCRIPT = 'read -r word; [ "$word" = done ] || { [ -d "$1" ] && kill -9 "-$2" && sleep 3 && rm -rf "$1"; }'


class Guard:
    """Watches over one session."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    @classmethod
    async def start(cls, session_id: int, folder: Path) -> Self:
        """Begin to watch. Raises OSError."""
        return cls(
            await asyncio.create_subprocess_exec(
                *("sh", "-c", _SCRIPT, "ayni-ray-guard", str(folder), str(session_id)),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        )

    async def release(self) -> None:
        """The session was ended by us. Never raises; may be called twice."""
        assert self._child.stdin is not None
        if not self._child.stdin.is_closing():
            self._child.stdin.write(b"done\n")
            self._child.stdin.close()
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._child.wait()
        except TimeoutError:
            self._child.kill()
