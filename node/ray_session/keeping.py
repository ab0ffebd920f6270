"""What to do about this node's Ray session next: the wanted formation and what has happened in, one step out.

Pure, time passed in. `RayKeeper` carries the steps out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from node.ray_session.formation import Formation

# Between attempts of a worker; the last one for all further attempts. A head has fewer chances, see below.
RETRY_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
# A head that can't be brought back at its address within two attempts is given up; then the nodes elect.
HEAD_ATTEMPTS = 2
# A session that ran this long was no failed attempt.
STEADY_S = 30.0


@dataclass(frozen=True, slots=True)
class Start:
    """Start a session of this formation."""

    formation: Formation


@dataclass(frozen=True, slots=True)
class Stop:
    """End the session that runs."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before then (monotonic clock); None: before something happens."""

    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """This node can't be the head of this formation: the owner has to form another generation."""

    formation: Formation
    reason: str


Step: TypeAlias = Start | Stop | Wait | GiveUp


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known.

    Attributes:
        wanted: the formation to be in; None: none.
        running: the one that the present session was started for; None: there is no session.
        running_lost: why that session is useless, "" while it is well.
        failures: attempts at `wanted` that failed in a row, the last one at `failed_at_s` for `failure`.
        given_up: whether the owner was told so of `wanted`.
        hopeless: what failed can't succeed later: another version of Ray.
    """

    wanted: Formation | None = None
    running: Formation | None = None
    running_lost: str = ""
    failures: int = 0
    failed_at_s: float = 0.0
    failure: str = ""
    given_up: bool = False
    hopeless: bool = False


def next_step(now: Situation, *, is_head: bool, now_s: float) -> Step:
    """Say what to do next.

    1. A session of another formation than the wanted one, or a lost one: stop it.
    2. The wanted one runs, or none is wanted: wait.
    3. It can never work here: wait for another formation.
    4. This node is the head and has failed too often: give the formation up, once.
    5. It failed a short while ago: wait, longer each time.
    6. Start it.
    """
    if now.running is not None:
        if now.running != now.wanted:
            return Stop("another formation is wanted" if now.wanted is not None else "no longer wanted")
        return Stop(now.running_lost) if now.running_lost else Wait()
    if now.wanted is None or now.hopeless:
        return Wait()
    if is_head and now.failures >= HEAD_ATTEMPTS:
        return Wait() if now.given_up else GiveUp(now.wanted, now.failure)
    if now.failures:
        until_s = now.failed_at_s + RETRY_S[min(now.failures, len(RETRY_S)) - 1]
        if now_s < until_s:
            return Wait(until_s)
    return Start(now.wanted)
