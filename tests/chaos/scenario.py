"""One run from its beginning to its end: form a cluster, load it, let things happen, see that all is as before."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import deeds, wholeness
from tests.chaos.events import Deed, Event, plan
from tests.chaos.load import QUESTIONS, Answer, Load, Question, Tally, answers_of
from tests.chaos.machines import Machine
from tests.chaos.places import Network, machines_on
from tests.cluster.real_nodes import form, until

# Ray takes 4 s to form on a quiet machine, and after the last event everything may have to be started anew.
FORM_LIMIT_S = 90.0
REST_LIMIT_S = 120.0
EVENT_LIMIT_S = 90.0
END_LIMIT_S = 90.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """What a run came to. It went well if `wrong` is empty."""

    seed: int
    events: Counter[str] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    resumed: int = 0
    loaded_s: float = 0.0
    whole_after_s: float = 0.0
    generation: int = 0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        tally = self.tally
        return [
            f"seed {self.seed}: {sum(self.events.values())} events in {self.loaded_s:.0f} s",
            *(f"    {count:4d}  {deed}" for deed, count in sorted(self.events.items())),
            f"requests    {tally.requests} ({', '.join(f'{n} {api}' for api, n in sorted(tally.by_api.items()))})",
            f"identical   {tally.identical}",
            f"resumed     {self.resumed} times on another node, or the same one again",
            f"asked again {tally.asked_again} times, because the asked node itself was gone",
            f"longest     {tally.longest_s:.1f} s",
            f"whole again {self.whole_after_s:.1f} s after the last event, generation {self.generation}",
            *(f"WRONG       {line}" for line in self.wrong),
        ]


def run(
    folder: Path,
    network: Network,
    *,
    seed: int,
    events: int,
    only: Sequence[Deed] | None = None,
    say: Say = lambda _: None,
) -> Report:
    """Carry a whole run out; everything is ended and removed at its end.

    Args:
        only: the deeds to choose from; None: all that can be done here.
        say: told of what happens, while it happens.
    """
    report = Report(seed)
    began_s = time.monotonic()

    def tell(line: str) -> None:
        say(f"{time.monotonic() - began_s:6.1f} s  {line}")

    with _running(network, folder, report) as machines:
        _form(machines)
        tell("formed")
        expected = answers_of(machines[0], QUESTIONS)
        report.wrong += _disagreements(machines, expected)
        tell(f"{len(expected)} questions, answered with {sum(answer.tokens for answer in expected.values())} tokens")
        before = {machine.name: wholeness.Holdings.of(machine) for machine in machines}
        choice = [deed for deed in deeds.possible(machines) if only is None or deed in only]
        load = Load(machines, expected, seed=seed)
        load.start()
        loaded_s = time.monotonic()
        _happen(plan(seed, events, choice, machines=len(machines)), machines, report, tell)
        ended_s = time.monotonic()
        load.stop()
        report.tally, report.loaded_s = load.tally, time.monotonic() - loaded_s
        report.wrong += load.tally.wrong
        report.wrong += _await_rest(machines, before)
        report.whole_after_s = time.monotonic() - ended_s
        tell(f"at rest: {report.wrong or 'whole'}")
        if not report.wrong:
            report.generation = machines[0].node.ask("GET", "/api/cluster")["generation"]
            report.wrong += _disagreements(machines, expected) + wholeness.placement_troubles(machines)
        report.wrong += [death for machine in machines for death in machine.deaths]
        report.wrong += [line for machine in machines for line in _tracebacks(machine)]
        report.resumed = sum(machine.node.log.count("stream goes on") for machine in machines)
    return report


@contextlib.contextmanager
def _running(network: Network, folder: Path, report: Report) -> Iterator[list[Machine]]:
    """Three machines whose daemons run and are stopped in the end; what is there after that is put in the report."""
    with machines_on(network, folder) as machines:
        try:
            for machine in machines:
                machine.start()
            yield machines
        finally:
            enders = [threading.Thread(target=machine.end) for machine in machines]
            for ender in enders:
                ender.start()
            for ender in enders:
                ender.join(END_LIMIT_S)
            report.wrong += wholeness.left_behind(machines, folder)


def _form(machines: Sequence[Machine]) -> None:
    form([machine.node for machine in machines])
    until(lambda: not _ray_troubles(machines), FORM_LIMIT_S, "all members in one Ray cluster")


def _ray_troubles(machines: Sequence[Machine]) -> list[str]:
    states = [machine.node.ask("GET", "/api/cluster")["ray"] for machine in machines]
    return [state["reason"] or state["state"] for state in states if state["state"] != "up" or state["reason"]]


def _disagreements(machines: Sequence[Machine], expected: dict[Question, Answer]) -> list[str]:
    return [
        f"{machine.name} answers {question} with {answer}"
        for machine in machines
        for question, answer in answers_of(machine).items()
        if answer != expected[question]
    ]


def _happen(events: Sequence[Event], machines: Sequence[Machine], report: Report, tell: Say) -> None:
    """Begin one event after the other, each after its pause; what lasts goes on beside the next ones."""
    threads = []
    busy = {(event.deed, event.machine): threading.Lock() for event in events}

    def work(event: Event) -> None:
        with busy[event.deed, event.machine]:
            try:
                done = deeds.carry_out(event, machines)
            except Exception as error:  # the run goes on, and fails
                report.wrong.append(f"event {event} failed: {error!r}")
            else:
                report.events[event.deed if done else "found nobody"] += 1
                tell(f"{event.number:3d} {done or f'nobody for {event.deed}'}")

    for event in events:
        time.sleep(event.after_s)
        threads.append(threading.Thread(target=work, args=(event,), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(EVENT_LIMIT_S)
        if thread.is_alive():
            report.wrong.append("an event does not end")


def _await_rest(machines: Sequence[Machine], before: dict[str, wholeness.Holdings]) -> list[str]:
    deadline_s = time.monotonic() + REST_LIMIT_S
    while (found := wholeness.troubles(machines, before)) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    return found


def _tracebacks(machine: Machine) -> list[str]:
    lines = machine.node.log.splitlines()
    return [
        f"{machine.name} logged a traceback: {' | '.join(lines[max(0, at - 1) : at + 25])}"
        for at, line in enumerate(lines)
        if line.startswith("Traceback")
    ][:3]


def any_seed() -> int:
    """A seed that nobody has thought of."""
    return random.SystemRandom().randrange(1_000_000)
