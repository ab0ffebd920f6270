"""One client's stream over as many machines as it takes: what was delivered, and the job that goes on after it.

Pure state, time passed in: events of attempts go in, events for the client come out, and `begin` says what to ask of
the first machine and of each next one. Whether there is to be a next one is for `coordinator.trail` to say. The rule
that makes it exact: what a runner has sent is a function of the tokens it has consumed, so a runner that is forced
through the same tokens continues with the same text.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from node.jobs import Delta, Done, Event, Failed, Job, Sampling

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Attempt:
    """Ask a machine for this. `number` comes back with its events; those of an earlier attempt are ignored."""

    number: int
    job: Job


class Stream:
    """A job on its way to one client.

    A delta without tokens comes at the end of an answer only (text that was held back in case a stop string or a tool
    call followed). It is not passed on before the `Done` behind it, because the next machine would send it again.
    """

    def __init__(self, job: Job, *, now_s: float, seed: int) -> None:
        """Begin. `seed`: of the sampler where the job names none, so that all attempts draw alike."""
        sampling = job.sampling if job.sampling.seed is not None else _seeded(job.sampling, seed)
        self._job = replace(job, sampling=sampling)
        self._started_s = now_s
        self._first_token_s: float | None = None
        self._delivered: list[int] = list(job.resume)
        self._held_back: list[Delta] = []
        self._attempt = 0
        self._fruitful = False
        self._ended = False

    @property
    def resumed(self) -> int:
        """How often the stream has changed machines (or gone on after a break), for `X-Ayni-Resumed`."""
        return max(0, self._attempt - 1)

    @property
    def delivered_tokens(self) -> tuple[int, ...]:
        """Ids that the client's text is made of so far."""
        return tuple(self._delivered)

    @property
    def is_fruitful(self) -> bool:
        """Whether the present attempt has delivered something."""
        return self._fruitful

    def begin(self) -> Attempt:
        """The next attempt: the first one, or what goes on after the tokens delivered so far.

        The job keeps its budget, which counts the resumed tokens. Its id differs in each attempt, so that a machine
        that was asked before can't mistake it.
        """
        self._attempt += 1
        self._fruitful = False
        self._held_back.clear()
        name = self._job.id if self._attempt == 1 else f"{self._job.id}.{self._attempt}"
        return Attempt(self._attempt, replace(self._job, id=name, resume=tuple(self._delivered)))

    def take(self, attempt: int, event: Event, now_s: float) -> tuple[Event, ...]:
        """What to pass on to the client for an event of an attempt, in order; nothing for an outdated one."""
        if attempt != self._attempt or self._ended:
            return ()
        match event:
            case Delta(tokens=()):
                self._held_back.append(event)
                return ()
            case Delta():
                if self._first_token_s is None:
                    self._first_token_s = now_s
                self._fruitful = True
                self._delivered += event.tokens
                return (*self._release(), self._renamed(event))
            case Done():
                self._ended = True
                return (*self._release(), self._finished(event, now_s))
            case Failed():
                self._ended = True
                return (*self._release(), replace(event, job=self._job.id))
            case _:
                return ()

    def _release(self) -> tuple[Delta, ...]:
        held = tuple(self._renamed(delta) for delta in self._held_back)
        self._held_back.clear()
        return held

    def _renamed(self, delta: Delta) -> Delta:
        return delta if delta.job == self._job.id else replace(delta, job=self._job.id)

    def _finished(self, done: Done, now_s: float) -> Done:
        """The last event, with the times as the client has seen them where several machines took part."""
        if self._attempt == 1:
            return done
        first_s = now_s if self._first_token_s is None else self._first_token_s
        usage = replace(
            done.usage,
            queue_ns=0,
            prompt_ns=int((first_s - self._started_s) * _NS),
            output_ns=int((now_s - first_s) * _NS),
        )
        return replace(done, job=self._job.id, usage=usage)


def _seeded(sampling: Sampling, seed: int) -> Sampling:
    return replace(sampling, seed=seed)
