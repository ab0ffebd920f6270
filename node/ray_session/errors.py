"""What can go wrong with this machine's Ray processes. None of it concerns models or running streams.

RaySessionError
├── RayUnusable       Ray can't work here, or not with the others: missing, another version
├── PortsTaken        no block of free ports
├── RayCommandFailed  a Ray command said no, or said nothing within its limit
└── RayControlLost    the driver child died, hung, or answered nonsense
"""

from __future__ import annotations

from node.errors import NodeError


class RaySessionError(NodeError):
    """Anything that keeps this machine out of the Ray cluster; it serves nevertheless."""


class RayUnusable(RaySessionError):
    """A reason that won't go away by trying again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class PortsTaken(RaySessionError):
    """Every block of ports that we may use has a listener in it."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(first, last)
        self.first, self.last = first, last

    def __str__(self) -> str:
        return f"no free block of ports for Ray between {self.first} and {self.last}"


class RayCommandFailed(RaySessionError):
    """`reason` is for people; `output` the end of what the command wrote, for the log."""

    def __init__(self, command: str, reason: str, output: str = "") -> None:
        super().__init__(command, reason, output)
        self.command, self.reason, self.output = command, reason, output

    def __str__(self) -> str:
        return f"`{self.command}` failed: {self.reason}"


class RayControlLost(RaySessionError):
    """The child that speaks to Ray for us is gone, and so is what it was asked to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the Ray driver was lost: {self.reason}"
