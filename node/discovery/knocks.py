"""When an announced address is tried: soon, and then less and less often for as long as it is announced.

Pure: time and lot are passed in. Anybody on the network may announce any address, so what is announced must cost
us a bounded number of attempts, and must not keep the addresses of others from being tried.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from node.discovery.dialing import PeerAddress

FIRST_PAUSE_S = 2.0
SLOWEST_S = 60.0


class Knocks:
    """The attempts of one machine; as large as what is announced, which its caller bounds."""

    def __init__(self, lot: Random) -> None:
        self._lot = lot
        self._tried: dict[PeerAddress, tuple[float, float]] = {}  # when it is due again, and the pause until then

    def due(self, announced: Collection[PeerAddress], now_s: float, *, most: int) -> list[PeerAddress]:
        """Which of them to try now, drawn by lot and counted as tried; what is announced no longer is forgotten."""
        self._tried = {address: self._tried[address] for address in announced if address in self._tried}
        ready = [address for address in announced if self._tried.get(address, (now_s, 0.0))[0] <= now_s]
        chosen = self._lot.sample(ready, min(most, len(ready)))
        for address in chosen:
            pause_s = min(SLOWEST_S, 2 * self._tried.get(address, (0.0, FIRST_PAUSE_S / 2))[1])
            self._tried[address] = now_s + pause_s, pause_s
        return chosen
