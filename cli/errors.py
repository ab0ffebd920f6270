"""What makes a verb fail. `str()` of each is the line shown after "Error: "; the command then exits with 1.

CommandError
├── UsageError        the command line makes no sense
├── NotRunning        nothing answers at the node's address
├── ConnectionLost    the node went away in the middle of an answer
└── ServerError       the node answered, and refused
"""

from __future__ import annotations


class CommandError(Exception):
    """A verb can't do what it was asked; `hint` is a second line that says what would help."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return self.message


class UsageError(CommandError):
    """The arguments do not fit the verb."""


class NotRunning(CommandError):
    """Nothing that can be believed accepts connections at `address`."""

    def __init__(self, address: str, reason: str, hint: str = "") -> None:
        super().__init__(f"could not connect to a node at {address}: {reason}", hint)
        self.args = (address, reason, hint)
        self.address, self.reason = address, reason


class ConnectionLost(CommandError):
    """The connection to the node ended before its answer did."""


class ServerError(CommandError):
    """The node's own words about what is wrong, with the HTTP status (200 when it came within a stream)."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.args = (status, message, hint)
        self.status = status
