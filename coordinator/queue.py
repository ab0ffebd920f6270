"""Who goes next: a bounded queue for one model, fair between the tokens (people, programs) that ask.

Pure, time passed in. Start-time fair queueing: each request is stamped with a virtual time at which its client's
share would have begun it; the smallest stamp goes first. A client that sends a thousand requests moves its own stamps
into the future and nobody else's, so nobody starves. A weight is a share; a priority is a weight too, and not a
right of way, so that a low one is slow and never dead.

Source: Goyal, Vin, Cheng: Start-time Fair Queueing (SIGCOMM 1996); pushing out the longest queue: Suter et al. 1998.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

PRIORITY_FACTOR = 4.0  # one step of priority weighs as much as that many clients without
MIN_WEIGHT, MAX_WEIGHT = 1 / 1024, 1024.0
MAX_PRIORITY = 4
# How fast the estimate of the service rate follows the last requests.
_RATE_WEIGHT = 0.2
# The time between two starts, where nothing at all is known of it.
DEFAULT_INTERVAL_S = 5.0
LONGEST_RETRY_S = 300


@dataclass(frozen=True, slots=True)
class Share:
    """A client's claim: weight (1 is usual) and priority (0 is usual; each step multiplies by `PRIORITY_FACTOR`)."""

    weight: float = 1.0
    priority: int = 0

    @property
    def value(self) -> float:
        """What the client's requests are divided by."""
        factor = PRIORITY_FACTOR ** max(-MAX_PRIORITY, min(MAX_PRIORITY, self.priority))
        return min(MAX_WEIGHT, max(MIN_WEIGHT, self.weight)) * factor


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """A request's place. Compares by turn. `client` is the token's id (jti), or whatever stands for who asks."""

    stamp: float
    number: int
    client: str = field(compare=False)
    cost: float = field(compare=False)
    share: float = field(compare=False)
    came_at_s: float = field(compare=False)


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits. `displaced` had to go for it, and is answered as refused, after `retry_after_s`."""

    ticket: Ticket
    displaced: Ticket | None = None
    retry_after_s: int = 1


@dataclass(frozen=True, slots=True)
class QueueRefused:
    """The queue is full and this client already has its share of it; trying again makes sense after that time."""

    waiting: int
    retry_after_s: int


@dataclass(slots=True)
class _Client:
    """Where a client's next stamp begins, and its waiting requests, oldest first."""

    finish: float = 0.0
    waiting: list[Ticket] = field(default_factory=list)


class FairQueue:
    """The requests that wait for one model. Bounded by `limit`; clients without waiting requests are forgotten."""

    def __init__(self, limit: int, *, started_s: float = 0.0) -> None:
        """An empty queue that expects a start every `DEFAULT_INTERVAL_S`; see `expect`."""
        self._limit = limit
        self._heap: list[Ticket] = []
        self._gone: set[int] = set()
        self._clients: dict[str, _Client] = {}
        self._virtual = 0.0
        self._numbers = 0
        self._interval_s = DEFAULT_INTERVAL_S
        self._has_seen = False
        self._last_start_s = started_s
        self._was_waiting = False

    def __len__(self) -> int:
        return len(self._heap) - len(self._gone)

    def expect(self, interval_s: float) -> None:
        """Take this as the time between two starts, until some were seen here."""
        if not self._has_seen:
            self._interval_s = interval_s

    def push(
        self, client: str, now_s: float, *, share: Share | None = None, cost: float = 1.0
    ) -> Queued | QueueRefused:
        """Take a request in, or say that there is no room.

        1. Room: it waits.
        2. Full: if another client has more waiting for its share than this one then would, the newest request of
           the one with most gives way.
        3. Full, and this client is the one with most: refused.

        Args:
            cost: its work relative to others', such as expected tokens; positive.
        """
        value = (share or Share()).value
        displaced: Ticket | None = None
        if len(self) >= self._limit:
            displaced = self._most_greedy()
            mine = self._clients.get(client)
            wanted = (len(mine.waiting) if mine else 0) + 1
            if displaced is None or displaced.client == client or self._load(displaced.client) <= wanted / value:
                return QueueRefused(len(self), self.retry_after_s())
            self.remove(displaced)
        known = self._clients.setdefault(client, _Client())
        self._numbers += 1
        stamp = max(self._virtual, known.finish)
        ticket = Ticket(stamp, self._numbers, client, max(cost, 1e-9), value, now_s)
        known.finish = stamp + ticket.cost / value
        known.waiting.append(ticket)
        heapq.heappush(self._heap, ticket)
        return Queued(ticket, displaced, self.retry_after_s())

    def pop(self, now_s: float) -> Ticket | None:
        """The request whose turn it is; None: nobody waits."""
        while self._heap:
            ticket = heapq.heappop(self._heap)
            if ticket.number in self._gone:
                self._gone.discard(ticket.number)
                continue
            self._virtual = max(self._virtual, ticket.stamp)
            self._clients[ticket.client].waiting.remove(ticket)
            self._observe(now_s)
            self._forget_idle()
            return ticket
        return None

    def remove(self, ticket: Ticket) -> bool:
        """The client went away, or was displaced; False: it does not wait (any more).

        A client's newest request gives its share of a turn back; an older one's is lost, as if it had been served.
        """
        client = self._clients.get(ticket.client)
        if client is None or ticket not in client.waiting:
            return False
        if client.waiting[-1] == ticket:
            client.finish = ticket.stamp
        client.waiting.remove(ticket)
        self._gone.add(ticket.number)
        if len(self._gone) > 64 + len(self):
            self._heap = [kept for kept in self._heap if kept.number not in self._gone]
            heapq.heapify(self._heap)
            self._gone.clear()
        return True

    def position(self, ticket: Ticket) -> int:
        """How many go before it if nobody else comes, plus one; 0: it does not wait."""
        client = self._clients.get(ticket.client)
        if client is None or ticket not in client.waiting:
            return 0
        return 1 + sum(1 for other in self._heap if other < ticket and other.number not in self._gone)

    def wait_s(self, ticket: Ticket) -> float:
        """How long until its turn at the rate seen lately. Newcomers with a better claim can make it longer.

        The time since the last start is not taken off: the lengths of answers are spread so widely that a sequence
        which has not become free for a while is no more likely to do so soon.
        """
        return self.position(ticket) * self._interval_s

    def retry_after_s(self) -> int:
        """When the queue is likely to have shortened by a request or more, in whole seconds, at least one."""
        return min(LONGEST_RETRY_S, max(1, math.ceil(self._interval_s)))

    def _observe(self, now_s: float) -> None:
        """Learn from a start, if somebody waited since the one before it; otherwise the gap was mere idleness."""
        if self._was_waiting:
            gap = now_s - self._last_start_s
            self._has_seen = True
            self._interval_s += _RATE_WEIGHT * (gap - self._interval_s)
        self._last_start_s = now_s
        self._was_waiting = len(self) > 0

    def _load(self, client: str) -> float:
        waiting = self._clients[client].waiting
        return len(waiting) / waiting[-1].share if waiting else 0.0

    def _most_greedy(self) -> Ticket | None:
        """The newest request of the client with most waiting for its share."""
        busy = [(self._load(name), name) for name, client in self._clients.items() if client.waiting]
        return self._clients[max(busy)[1]].waiting[-1] if busy else None

    def _forget_idle(self) -> None:
        """Once nobody waits, all claims are settled: what a client had in a quiet time is not held against it."""
        if not len(self):
            self._virtual = max((client.finish for client in self._clients.values()), default=self._virtual)
            self._clients.clear()
            self._heap.clear()
            self._gone.clear()
        elif len(self._clients) > 2 * self._limit + 64:
            settled = [n for n, c in self._clients.items() if not c.waiting and c.finish <= self._virtual]
            for name in settled:
                del self._clients[name]
