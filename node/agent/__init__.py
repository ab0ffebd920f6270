"""The link between a daemon and the cluster's coordinator: a NodeAgent in Ray, a unix socket, and the daemon's door."""

from __future__ import annotations

from node.agent.door import AgentDoor

__all__ = ["AgentDoor"]
