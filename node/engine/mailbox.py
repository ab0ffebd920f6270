"""Messages from other threads to the one that owns the model."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Any thread puts, one thread takes."""

    def __init__(self) -> None:
        self._messages: deque[T] = deque()
        self._arrived = threading.Event()

    def put(self, message: T) -> None:
        """Leave a message and wake the owner."""
        self._messages.append(message)
        self._arrived.set()

    def take(self, *, wait_s: float | None = 0.0) -> list[T]:
        """All messages, oldest first; waits for the first one up to `wait_s` (None: for ever)."""
        if not self._messages and wait_s != 0.0:
            self._arrived.wait(wait_s)
        self._arrived.clear()
        # Read after clearing: a message that arrives from here on sets the flag again.
        taken = []
        while self._messages:
            taken.append(self._messages.popleft())
        return taken
