"""The ports of a node's Ray processes: one block, so that a firewall needs one rule.

Ray would choose at random, and binds every interface whatever it is told; what protects these ports is TLS and the
token.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from node.ray_session.errors import PortsTaken

# Right above the LAN listener on 11435.
FIRST_PORT = 11440
WORKER_PORTS = 24
BLOCK = 32
MAX_BLOCKS = 8
_PROBE_S = 0.2


@dataclass(frozen=True, slots=True)
class RayPorts:
    """One block of `BLOCK` ports, by purpose. Two agents of Ray that we have no use for get one each as well."""

    first: int

    @property
    def gcs(self) -> int:
        """The control store; of the head only."""
        return self.first

    @property
    def node_manager(self) -> int:
        """The raylet."""
        return self.first + 1

    @property
    def object_manager(self) -> int:
        """Transfers between object stores."""
        return self.first + 2

    @property
    def runtime_env_agent(self) -> int:
        """Plain HTTP, but closed to everybody without the token."""
        return self.first + 3

    @property
    def agent_http(self) -> int:
        """The dashboard agent, HTTP; unused in plain Ray."""
        return self.first + 4

    @property
    def agent_grpc(self) -> int:
        """The dashboard agent, gRPC."""
        return self.first + 5

    @property
    def metrics(self) -> int:
        """Unused in plain Ray."""
        return self.first + 6

    @property
    def workers(self) -> tuple[int, int]:
        """First and last port of actors and drivers, each of which listens on one."""
        return self.first + BLOCK - WORKER_PORTS, self.first + BLOCK - 1

    def __contains__(self, port: int) -> bool:
        return self.first <= port < self.first + BLOCK


def choose_ports(
    first: int = FIRST_PORT,
    *,
    blocks: int = MAX_BLOCKS,
    is_free: Callable[[int], bool] | None = None,
    but_not: frozenset[int] = frozenset(),
) -> RayPorts:
    """The first block, from `first` on, without a listener in it. Raises PortsTaken.

    Args:
        blocks: how many blocks to look at.
        but_not: ports that will be needed for something else.
    """
    free = is_free or is_free_port
    for start in range(first, first + blocks * BLOCK, BLOCK):
        if start + BLOCK > 1 << 16:
            break
        wanted = range(start, start + BLOCK)
        if but_not.isdisjoint(wanted) and all(free(port) for port in wanted):
            return RayPorts(start)
    raise PortsTaken(first, min(first + blocks * BLOCK, 1 << 16) - 1)


def is_free_port(port: int) -> bool:
    """Whether nobody listens there on IPv4, on any address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As gRPC will, so that what is left of closed connections is no obstacle; another gRPC server has answered.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - bound to ask, never listened on
        except OSError:
            return False
    return True
