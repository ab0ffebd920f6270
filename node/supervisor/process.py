"""Start and end a runner process: its socket, its environment, its complaints.

The runner gets a session of its own (a Ctrl-C in the daemon's terminal is the daemon's business), no input, a
small environment, and one end of a socket pair; it ends when the other end closes, so it can't outlive us.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

PACKAGE_ROOT = Path(__file__).parent.parent.parent
# A runner closes by itself within a step of the engine; a step on a slow machine takes seconds.
EXIT_GRACE_S = 5.0
TERM_GRACE_S = 2.0
_TAIL_LINES = 20
_LINE_CHARS = 400

_PASSED_ON = frozenset({"PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"})
_PASSED_ON_PREFIXES = (
    *("LC_", "LD_LIBRARY_PATH", "DYLD_", "PYTHON"),
    *("GGML_", "LLAMA_", "OMP_", "GOMP_", "KMP_", "BLAS_", "OPENBLAS_", "MKL_"),
    *("CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "ROCM_", "GPU_", "VK_", "MESA_", "SYCL_", "ONEAPI_", "ZE_", "MTL_"),
)


# llama.cpp's threads meet after every operation. libgomp lets one that waits spin for milliseconds, which takes the
# processor from the very thread it waits for as soon as anything else runs on the machine: 1,000 turns cost an idle
# machine nothing measurable and made a busy one three to five times faster (bench-0.5b, 2 threads on 2 cores).
_SPIN_COUNT = "1000"


def runner_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a runner needs of our environment: how to find libraries and devices, and no secrets."""
    kept = {
        name: value for name, value in environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    return {"GOMP_SPINCOUNT": _SPIN_COUNT} | kept | {"PYTHONPATH": str(PACKAGE_ROOT), "PYTHONUNBUFFERED": "1"}


class RunnerProcess:
    """A child process and our end of the socket to it."""

    def __init__(self, child: asyncio.subprocess.Process, connection: socket.socket) -> None:
        self.connection = connection
        self._child = child
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._listening = asyncio.create_task(self._listen(), name=f"stderr of runner {child.pid}")

    @classmethod
    async def spawn(cls, command: Sequence[str] | None = None) -> RunnerProcess:
        """Start a runner; `command`: another program than ours, which gets `--fd N` appended. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            # -P: the working directory is no place to import modules from.
            child = await asyncio.create_subprocess_exec(
                *(command or (sys.executable, "-P", "-m", "node.runner")),
                "--fd",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                env=runner_environment(os.environ),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        return cls(child, ours)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    async def ending(self) -> str:
        """Wait for its end and say how it ended."""
        code = await self._child.wait()
        return describe_exit(code)

    def complaints(self) -> str:
        """The last lines it wrote to stderr."""
        return "\n".join(self._tail)

    async def stop(self) -> None:
        """End it, its socket having been closed: with patience, then SIGTERM, then SIGKILL. Never raises."""
        for grace_s, next_signal in ((EXIT_GRACE_S, signal.SIGTERM), (TERM_GRACE_S, signal.SIGKILL)):
            if await self._ends_within(grace_s):
                break
            log.warning("runner %d does not end, sending %s", self.pid, next_signal.name)
            self.signal(next_signal)
        await self._child.wait()
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    def kill(self) -> None:
        """End it now."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self._child.returncode is None:
            try:
                self._child.send_signal(number)
            except ProcessLookupError:
                log.debug("runner %d ended by itself", self.pid)

    async def _ends_within(self, limit_s: float) -> bool:
        try:
            async with asyncio.timeout(limit_s):
                await self._child.wait()
        except TimeoutError:
            return False
        return True

    async def _listen(self) -> None:
        """Keep the last lines of stderr, each cut to a bound, and log them for those who debug."""
        assert self._child.stderr is not None
        partial = ""
        while chunk := await self._child.stderr.read(4096):
            *lines, partial = (partial + chunk.decode(errors="replace")).split("\n")
            for line in lines:
                self._tail.append(line[:_LINE_CHARS])
                log.debug("runner %d: %s", self.pid, line[:_LINE_CHARS])
            partial = partial[-_LINE_CHARS:]
        if partial:
            self._tail.append(partial)


def describe_exit(code: int) -> str:
    """A process's exit status in words."""
    if code >= 0:
        return f"its process ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"its process was ended by signal {name}"
