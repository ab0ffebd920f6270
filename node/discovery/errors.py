"""What can go wrong while looking for other machines.

DiscoveryError
├── UnreadableRecord   a machine announces itself in a way we can't understand
├── InvalidPeer        a static peer in the settings is no address
└── NoMulticast        mDNS can't be used here; static and remembered peers still work
"""

from __future__ import annotations

from node.errors import NodeError


class DiscoveryError(NodeError):
    """Anything that keeps us from seeing or being seen."""


class UnreadableRecord(DiscoveryError):
    """A record from the network that breaks a rule; whoever sent it is a stranger."""

    def __init__(self, instance: str, reason: str) -> None:
        super().__init__(instance, reason)
        self.instance, self.reason = instance, reason

    def __str__(self) -> str:
        return f"the announcement of {self.instance!r} can't be read: {self.reason}"


class InvalidPeer(DiscoveryError):
    """A peer address that can't be dialled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"{self.text!r} is no peer address; write host, host:port, 192.168.1.5:11435 or [fd00::5]:11435"


class NoMulticast(DiscoveryError):
    """No interface can be used, or the system refused the socket."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"no multicast discovery: {self.reason}"
