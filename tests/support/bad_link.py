"""`python -m tests.support.bad_link FIRST SECOND DELAY_S LOSS`: pass frames between two interfaces, late or not at all.

In place of `tc ... netem`, which many kernels are built without, those of small virtual machines above all.
"""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import sys
import time
from itertools import count

_ETH_P_ALL = 3
_SOL_PACKET = 263
# Frames come with what their sender has left to hardware (checksums, cutting into pieces), and go on with it.
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_MAX_FRAME_BYTES = 1 << 17


def open_interface(name: str) -> socket.socket:
    """All frames that come in through an interface, and a way out through it."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    opened.bind((name, _ETH_P_ALL))
    opened.setblocking(False)
    return opened


def relay(first: socket.socket, second: socket.socket, delay_s: float, loss: float) -> None:
    """Pass frames on, for ever."""
    order = count()
    due: list[tuple[float, int, socket.socket, bytes]] = []
    chance = random.Random(1)
    waiting = selectors.DefaultSelector()
    for source, target in ((first, second), (second, first)):
        waiting.register(source, selectors.EVENT_READ, target)
    while True:
        pause_s = max(0.0, due[0][0] - time.monotonic()) if due else None
        for key, _ in waiting.select(pause_s):
            assert isinstance(key.fileobj, socket.socket)
            frame = key.fileobj.recv(_MAX_FRAME_BYTES)
            if chance.random() >= loss:
                heapq.heappush(due, (time.monotonic() + delay_s, next(order), key.data, frame))
        while due and due[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(due)
            try:
                target.send(frame)
            except OSError:  # a cable was pulled
                continue


if __name__ == "__main__":
    ends = [open_interface(name) for name in sys.argv[1:3]]
    print("ready", flush=True)
    relay(*ends, *map(float, sys.argv[3:5]))
