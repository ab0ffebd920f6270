"""Keep this node in the Ray cluster it is told to be in: start, watch, restart, stop, and say how it stands.

One task owns the session. What to do is decided in `keeping`; whoever wants another formation only says so with
`want`, and a start that is under way for an outdated formation is broken off.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from node.ray_session.errors import RaySessionError, RayUnusable
from node.ray_session.formation import Formation, Role
from node.ray_session.keeping import STEADY_S, GiveUp, Situation, Start, Stop, Wait, next_step
from node.waiting import set_within

if TYPE_CHECKING:
    from node.identity import NodeId

log = logging.getLogger(__name__)

Phase: TypeAlias = Literal["off", "starting", "up", "waiting", "failed"]
BROKEN_S = 1.0


class Session(Protocol):
    """A running session: `lost` is done when it is useless, with the reason."""

    lost: asyncio.Future[str]

    async def stop(self) -> None:
        """End it whole."""
        ...


class Launcher(Protocol):
    """Starts sessions for this node."""

    async def start(self, formation: Formation) -> Session:
        """A session that has joined. Cancellation and failure leave nothing. Raises RaySessionError, OSError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RayStatus:
    """How this node stands with Ray, for people and for the election.

    Attributes:
        phase: "waiting" for the next attempt; "failed": it won't be tried again before something changes.
        starts: sessions started since the daemon's start.
    """

    phase: Phase = "off"
    role: Role | None = None
    generation: int = 0
    reason: str = ""
    starts: int = 0


class RayKeeper:
    """Owner of this node's Ray session.

    Args:
        on_status: called in the event loop with every change.
        on_head_lost: called once for a formation that this node should head and can't.
    """

    def __init__(
        self,
        me: NodeId,
        launcher: Launcher,
        *,
        on_status: Callable[[RayStatus], None] = lambda _: None,
        on_head_lost: Callable[[Formation, str], None] = lambda _, __: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._me, self._launcher, self._clock = me, launcher, clock
        self._on_status, self._on_head_lost = on_status, on_head_lost
        self._now = Situation()
        self._session: Session | None = None
        self._started_at_s = 0.0
        self._changed = asyncio.Event()
        self._status = RayStatus()
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> RayStatus:
        """How it stands."""
        return self._status

    @property
    def session(self) -> Session | None:
        """The session that runs, if one does."""
        return self._session

    def start(self) -> None:
        """Begin to keep."""
        self._task = asyncio.create_task(self._keep(), name="keep the Ray session")

    def want(self, formation: Formation | None) -> None:
        """Be in this formation from now on; None: in none."""
        if formation != self._now.wanted:
            self._now = replace(self._now, wanted=formation, failures=0, failure="", given_up=False, hopeless=False)
            self._changed.set()

    def renew(self, reason: str) -> None:
        """Start the session anew: its agent is gone for good, or its certificate has changed."""
        if self._session is not None and not self._session.lost.done():
            self._session.lost.set_result(reason)

    async def close(self) -> None:
        """End the session; never raises."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._session is not None:
            await self._stop("the daemon goes down")

    async def _keep(self) -> None:
        while True:
            try:
                await self._step()
            except Exception:
                log.exception("keeping the Ray session failed")
                self._fail("a mistake of ours, see the log", hopeless=False)
                await asyncio.sleep(BROKEN_S)

    async def _step(self) -> None:
        self._changed.clear()
        wanted = self._now.wanted
        is_head = wanted is not None and wanted.head == self._me
        match next_step(self._now, is_head=is_head, now_s=self._clock()):
            case Start(formation):
                await self._start(formation)
            case Stop(reason):
                await self._stop(reason)
            case GiveUp(formation, reason):
                log.error("can't head generation %d: %s", formation.generation, reason)
                self._now = replace(self._now, given_up=True)
                self._show("failed", reason)
                self._on_head_lost(formation, reason)
            case Wait(until_s):
                await self._wait(until_s)

    async def _start(self, formation: Formation) -> None:
        self._show("starting")
        starting = asyncio.create_task(self._launch(formation), name=f"start generation {formation.generation}")
        try:
            await self._done_or_outdated(starting, formation)
        finally:
            starting.cancel()  # nothing happens to one that is done
            await asyncio.wait({starting})
            if not starting.cancelled() and starting.exception() is None:
                self._take(formation, starting.result())
        error = None if starting.cancelled() else starting.exception()
        if isinstance(error, RaySessionError | OSError):
            self._fail(str(error), hopeless=isinstance(error, RayUnusable))
        elif error is not None:
            raise error

    async def _launch(self, formation: Formation) -> Session:
        return await self._launcher.start(formation)

    async def _done_or_outdated(self, starting: asyncio.Task[Session], formation: Formation) -> None:
        while not starting.done() and self._now.wanted == formation:
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            try:
                first: set[asyncio.Task[Any]] = {starting, changed}
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()

    def _take(self, formation: Formation, session: Session) -> None:
        self._session, self._started_at_s = session, self._clock()
        self._now = replace(self._now, running=formation, running_lost="")
        session.lost.add_done_callback(self._on_lost)
        self._show("up", starts=self._status.starts + 1)
        log.info("in the Ray cluster generation=%d role=%s", formation.generation, formation.role_of(self._me))

    async def _stop(self, reason: str) -> None:
        session = self._session
        log.info("ending the Ray session: %s", reason)
        if session is not None:
            session.lost.remove_done_callback(self._on_lost)
            await session.stop()
        self._session = None  # not before: `close` may come in between, and has to stop it whole
        was_lost, was_wanted = self._now.running_lost, self._now.running == self._now.wanted
        self._now = replace(self._now, running=None, running_lost="")
        if was_lost and was_wanted:
            if self._clock() - self._started_at_s >= STEADY_S:
                self._now = replace(self._now, failures=0)
            else:  # one that falls over at once is held back
                self._fail(was_lost, hopeless=False)
        elif self._now.wanted is None:
            self._show("off", reason)

    async def _wait(self, until_s: float | None) -> None:
        if self._now.hopeless:
            self._show("failed", self._now.failure)
        elif until_s is not None:
            self._show("waiting", self._now.failure)
        await set_within(self._changed, None if until_s is None else max(0.0, until_s - self._clock()))

    def _fail(self, reason: str, *, hopeless: bool) -> None:
        log.warning("no Ray session: %s", reason)
        self._now = replace(
            self._now,
            failures=self._now.failures + 1,
            failed_at_s=self._clock(),
            failure=reason,
            hopeless=hopeless,
        )

    def _on_lost(self, lost: asyncio.Future[str]) -> None:
        self._now = replace(self._now, running_lost=lost.result())
        self._changed.set()

    def _show(self, phase: Phase, reason: str = "", *, starts: int | None = None) -> None:
        wanted = self._now.wanted
        status = RayStatus(
            phase=phase,
            role=wanted.role_of(self._me) if wanted is not None else None,
            generation=wanted.generation if wanted is not None else 0,
            reason=reason,
            starts=self._status.starts if starts is None else starts,
        )
        if status != self._status:
            self._status = status
            self._on_status(status)
