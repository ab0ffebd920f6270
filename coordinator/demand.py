"""When another copy of a model pays, and when one is superfluous. Pure, time passed in.

A copy is made once the model's requests have waited, all in all and lately, for longer than loading one takes. That is
the rule of whoever rents skis: buy when the rent paid so far reaches the price; it costs at most twice what it would
with the future known. Source: Karlin, Manasse, Rudolph, Sleator: Competitive snoopy caching (1988).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coordinator.cost import START_S, RouteRequest
from coordinator.route import Route
from coordinator.view import Host, ResidentKey, is_evictable

if TYPE_CHECKING:
    from node.identity import NodeId

USUAL_PROMPT_TOKENS = 1000
# What a copy is judged by: fetching and loading are paid once, reading prompts on a slow machine again and again.
REQUESTS_OF_A_COPY = 8
# A machine that takes longer for a usual prompt helps nobody out who waits for a faster one.
SLOW_PROMPT_S = 5.0
# A copy is superfluous while the others would have this share of their sequences busy at most.
SPARE_OCCUPANCY = 0.5


@dataclass(slots=True)
class Demand:
    """How much one model is asked for: seconds that its requests have waited lately, and the copies made for them."""

    waited_s: float = 0.0
    copies: set[NodeId] = field(default_factory=set)
    _waited_at_s: float | None = None
    _spare_since_s: float | None = None

    def observe(self, hosts: Collection[Host], elsewhere: int, now_s: float, *, half_life_s: float) -> bool:
        """Add up what has been waited since the last look; whether a copy is worth thinking about.

        While one of the `hosts` has a sequence free, what waits at another was sent there for its cache, or has bad
        luck; unless the free one is on a machine so slow that it is better to wait. `elsewhere`: requests that wait in
        the queues of other nodes.
        """
        is_full = all(
            host.resident.active >= host.resident.parallel
            or SLOW_PROMPT_S * host.prefill_tokens_s < USUAL_PROMPT_TOKENS
            for host in hosts
        )
        waiting = elsewhere + (sum(host.resident.queued for host in hosts) if is_full else 0)
        elapsed_s = 0.0 if self._waited_at_s is None else now_s - self._waited_at_s
        self.waited_s = self.waited_s * 0.5 ** (elapsed_s / half_life_s) + waiting * elapsed_s
        self._waited_at_s = now_s
        return waiting > 0 and self.waited_s > START_S

    def request(self, key: ResidentKey, hosts: Mapping[NodeId, Host], *, spared_s: float) -> RouteRequest:
        """What a copy has to be good for. The longer the queue, the more lately used models may make room."""
        return RouteRequest(
            key[0],
            prompt_tokens=REQUESTS_OF_A_COPY * USUAL_PROMPT_TOKENS,
            context_tokens=max(host.resident.context_tokens for host in hosts.values()),
            embedding=key[1],
            spares_s=spared_s * min(1.0, spared_s / self.waited_s),
            excluded=frozenset(hosts),
        )

    def pays(self, target: Route, hosts: Collection[Host]) -> bool:
        """Whether waiting has cost what the load will, and whoever goes there is served sooner than by waiting."""
        if target.kind != "load" or target.in_part:
            return False  # in part, it would slow down everything else on the node
        once_s = target.terms.total_s - target.terms.prefill_s
        each_s = target.terms.prefill_s / REQUESTS_OF_A_COPY
        waiting_s = min(host.queue_s + USUAL_PROMPT_TOKENS / host.prefill_tokens_s for host in hosts)
        return once_s < self.waited_s and each_s < waiting_s

    def bought(self, node: NodeId) -> None:
        """A copy is being made; what was waited for it is settled."""
        self.waited_s = 0.0
        self.copies.add(node)

    def spare(
        self, hosts: Mapping[NodeId, Host], coming: Collection[NodeId], now_s: float, *, after_s: float
    ) -> NodeId | None:
        """The copy to give back: idle, and the others could have done its work for `after_s`. `coming`: being made."""
        self.copies &= {*hosts, *coming}
        idle = [node for node in hosts if node in self.copies and is_evictable(hosts[node].resident)]
        spare = max(idle, key=lambda node: (hosts[node].resident.idle_s, node), default=None)
        working = sum(host.resident.active + host.resident.queued for host in hosts.values())
        room = sum(host.resident.parallel for node, host in hosts.items() if node != spare)
        if spare is None or len(hosts) < 2 or working > SPARE_OCCUPANCY * room:
            self._spare_since_s = None
        elif self._spare_since_s is None:
            self._spare_since_s = now_s
        elif now_s - self._spare_since_s >= after_s:
            self._spare_since_s = None
            self.copies.discard(spare)
            return spare
        return None
