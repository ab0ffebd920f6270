"""One run of this node's Ray processes: started under a time limit, watched, ended by session id.

The daemon never imports ray. A session that is lost is not repaired here: `RayKeeper` starts another one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from node.ray_session import leftover, processes
from node.ray_session.errors import RayCommandFailed
from node.ray_session.guard import Guard
from node.ray_session.plan import SessionPlan, session_environment, start_command

log = logging.getLogger(__name__)

# Measured 3 s and 2 s on a quiet machine, ten times that on one with ten times too much to do, which would never get
# there if it was broken off. A head that is gone makes a worker hang, so its limit is also how long it tries.
HEAD_LIMIT_S = 40.0
WORKER_LIMIT_S = 40.0
WATCH_S = 0.25
IDLE_S = 10.0
LISTEN_S = 0.5
LOOK_S = 0.1
_OUTPUT_BYTES = 8192

# What the command writes, and what that means. The first that is found counts.
_REASONS = (
    (r"Version mismatch[^\n]*", "this machine's Ray or Python differs from the head's"),
    (r"CERTIFICATE_VERIFY_FAILED", "the head's certificate was not accepted"),
    (r"InvalidAuthToken|Unauthenticated", "the head does not accept the token of this generation"),
    (r"already (?:running|in use)", "a port is in use, or a session already runs"),
    (r"Failed to connect to GCS|Unable to connect to GCS|Timed out while waiting for GCS", "the head does not answer"),
    (r"No space left on device", "the disk is full"),
)
# These do not go away by waiting, though Ray waits.
_FINAL = (r"CERTIFICATE_VERIFY_FAILED", r"InvalidAuthToken|Unauthenticated")
# `ray start` on the head starts one more process, of 100 MB, that serves a dashboard nobody asked for.
_UNWANTED = "ray/dashboard/dashboard.py"
# A worker that was started for an actor which then went elsewhere; Ray would keep it, and its 60 MB, for ever.
_IDLE = "ray::IDLE"
_VITAL = {"gcs_server": "the control store", "raylet": "the raylet"}


class RaySession:
    """The processes of one session.

    Attributes:
        lost: done when a process ended that a session can't be without; its result says which.
    """

    def __init__(self, plan: SessionPlan, state: Path, session_id: int) -> None:
        self.plan = plan
        self.session_id = session_id
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._state = state
        self._watching: asyncio.Task[None] | None = None
        self._guard: Guard | None = None

    @classmethod
    async def start(
        cls,
        plan: SessionPlan,
        state: Path,
        environ: Mapping[str, str] = os.environ,
        *,
        command: Sequence[str] | None = None,
        limit_s: float | None = None,
    ) -> Self:
        """Run `ray start`; if that fails or is cancelled, nothing is left behind.

        Args:
            state: folder of the record by which a later daemon finds what this one left.
            command: another program than `ray start`.
        Raises: RayCommandFailed, OSError.
        """
        limit_s = limit_s or (HEAD_LIMIT_S if plan.role == "head" else WORKER_LIMIT_S)
        output = plan.folder / "start.log"
        with output.open("wb") as file:
            child = await asyncio.create_subprocess_exec(
                *(command or start_command(plan)),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=plan.folder,
                env=session_environment(plan, environ),
                start_new_session=True,
            )
        session = cls(plan, state, child.pid)
        try:
            session._guard = await Guard.start(child.pid, plan.folder)
            started = leftover.SessionRecord(session_id=child.pid, folder=plan.folder)
            await asyncio.to_thread(leftover.write_record, state, started)
            await session._await_start(child, output, limit_s)
        except BaseException:
            if child.returncode is None:
                processes.kill(child.pid)
            await asyncio.shield(session.stop())
            raise
        return session

    async def stop(self) -> None:
        """Kill every process of the session and remove its folder. Never raises; may be called twice."""
        if self._watching is not None:
            self._watching.cancel()
        if not await asyncio.to_thread(processes.end, self.session_id, self.plan.folder):
            log.error("processes of Ray session %d do not end", self.session_id)
            return  # the record stays: the next start tries again
        if self._guard is not None:
            await self._guard.release()
        await asyncio.to_thread(leftover.remove_session_folder, self.plan.folder)
        leftover.forget_record(self._state)
        if not self.lost.done():
            self.lost.set_result("it was stopped")

    async def members(self) -> dict[int, list[str]]:
        """Its living processes and their command lines."""
        return await asyncio.to_thread(processes.members, self.session_id, self.plan.folder)

    async def _await_start(self, child: asyncio.subprocess.Process, output: Path, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
                listening = group.create_task(_listen(output), name="output of ray start")
                looking = group.create_task(self._look(output), name="processes of ray start")
                status = await child.wait()
                listening.cancel()
                looking.cancel()
        except TimeoutError:
            text = _tail(output)
            raise RayCommandFailed("ray start", explain(text) or f"no answer within {limit_s:.0f} s", text) from None
        except ExceptionGroup as refused:
            raise refused.exceptions[0] from None
        if status != 0:
            text = _tail(output)
            raise RayCommandFailed("ray start", explain(text) or _ending(status), text)
        running = await self.members()
        for pid, words in running.items():
            if any(_UNWANTED in word for word in words):
                processes.kill(pid)
        vital = _vital(running)
        missing = set(_wanted(self.plan)) - set(vital.values())
        if missing:
            text = _tail(output)
            raise RayCommandFailed("ray start", f"{missing.pop()} ended at once", text)
        self._watching = asyncio.create_task(self._watch(vital), name=f"watch Ray session {self.session_id}")

    async def _look(self, output: Path) -> None:
        """Notice what dies while Ray goes on waiting for it. Raises RayCommandFailed."""
        seen: dict[int, str] = {}
        while True:
            for pid, what in seen.items():
                if not processes.is_alive(pid):
                    raise RayCommandFailed("ray start", f"{what} ended at once", _tail(output))
            seen = _vital(await self.members())
            await asyncio.sleep(LOOK_S)

    async def _watch(self, vital: Mapping[int, str]) -> None:
        idle: set[int] = set()
        looked_s = time.monotonic()
        while True:
            for pid, what in vital.items():
                if not processes.is_alive(pid):
                    log.warning("lost %s of Ray session %d", what, self.session_id)
                    if not self.lost.done():
                        self.lost.set_result(f"{what} ended")
                    return
            if time.monotonic() - looked_s >= IDLE_S:
                idle, looked_s = await self._end_idle(idle), time.monotonic()
            await asyncio.sleep(WATCH_S)

    async def _end_idle(self, before: set[int]) -> set[int]:
        """End the workers that were idle `before` and still are. Returns: the other idle ones."""
        idle = {pid for pid, words in (await self.members()).items() if words and words[0].strip().endswith(_IDLE)}
        for pid in idle & before:
            log.info("ending an idle worker of Ray session %d", self.session_id)
            processes.kill(pid)
        return idle - before


def explain(output: str) -> str:
    """What Ray's complaint means; "" where it is none that we know."""
    for pattern, meaning in _REASONS:
        if found := re.search(pattern, output):
            return f"{meaning} ({found[0]})" if found[0].startswith("Version") else meaning
    return ""


async def _listen(output: Path) -> None:
    """Watch for what Ray complains about and nevertheless tries again and again. Raises RayCommandFailed."""
    while True:
        await asyncio.sleep(LISTEN_S)
        text = _tail(output)
        if any(re.search(pattern, text) for pattern in _FINAL):
            raise RayCommandFailed("ray start", explain(text), text)


def _vital(running: Mapping[int, list[str]]) -> dict[int, str]:
    """Of a session's processes those that it can't be without, in words."""
    return {pid: what for pid, words in running.items() if (what := _VITAL.get(Path(words[0]).name if words else ""))}


def _wanted(plan: SessionPlan) -> tuple[str, ...]:
    return tuple(_VITAL.values()) if plan.role == "head" else (_VITAL["raylet"],)


def _ending(status: int) -> str:
    return f"it ended with status {status}" if status >= 0 else f"it was ended by {signal.Signals(-status).name}"


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _OUTPUT_BYTES))
            return file.read(_OUTPUT_BYTES).decode(errors="replace")
    except OSError:
        return ""
