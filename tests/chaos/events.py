"""What is going to happen to whom, and when: a list of values, made from a seed before anything happens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Deed: TypeAlias = Literal[
    "kill runner",
    "kill daemon",
    "kill raylet",
    "kill control store",
    "kill agent",
    "kill coordinator",
    "pause runner",
    "pause daemon",
    "pause raylet",
    "pause control store",
    "pull cable",
    "cut link",
    "fill disk",
    "step clock",
    "restart daemon",
]
DEEDS: tuple[Deed, ...] = get_args(Deed)

# Long enough for the next event to hit a cluster that is still busy with the last one, or one that is well again.
PAUSE_S = (0.5, 3.5)
# From what nobody notices to what counts as death: a node is lost after 2 s of silence, Ray's health check takes 4.5.
LASTING_S = (0.5, 6.0)
# Within what the cluster asks of clocks (two minutes), and far beyond.
CLOCK_STEPS_S = (-7200.0, -600.0, -90.0, 90.0, 600.0, 7200.0)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that goes wrong.

    Attributes:
        machine: whom it hits, by number; where the deed needs what only one machine has (the control store), that one.
        after_s: since the event before it began.
        for_s: how long a pause, a cut, a full disk or a wrong clock lasts.
        step_s: by how much the clock is set forward.
    """

    number: int
    deed: Deed
    machine: int
    after_s: float
    for_s: float
    step_s: float


def plan(seed: int, count: int, deeds: Sequence[Deed], *, machines: int) -> list[Event]:
    """Deal `count` events: every deed once in random order, then all of them again, and so on."""
    chance = random.Random(seed)
    deck: list[Deed] = []
    events = []
    for number in range(count):
        if not deck:
            deck = chance.sample(list(deeds), len(deeds))
        events.append(
            Event(
                number=number,
                deed=deck.pop(),
                machine=chance.randrange(machines),
                after_s=chance.uniform(*PAUSE_S),
                for_s=chance.uniform(*LASTING_S),
                step_s=chance.choice(CLOCK_STEPS_S),
            )
        )
    return events
