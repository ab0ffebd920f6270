"""Where the LAN port is opened, and under which addresses others reach it."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from node.discovery import announced_addresses, interfaces_in_use

if TYPE_CHECKING:
    from node.settings import Settings

BACKLOG = 1024


def open_sockets(settings: Settings) -> list[socket.socket]:
    """Listening sockets on all addresses, or on those named. Raises OSError."""
    opened: list[socket.socket] = []
    try:
        if settings.lan_hosts:
            for host in settings.lan_hosts:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                opened.append(_listen(family, host, settings.lan_port))
        elif socket.has_dualstack_ipv6():
            opened.append(
                socket.create_server(
                    ("::", settings.lan_port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
                )
            )
        else:
            opened.append(_listen(socket.AF_INET, "0.0.0.0", settings.lan_port))  # noqa: S104 - the LAN port is for all
    except OSError:
        for each in opened:
            each.close()
        raise
    for each in opened:
        each.setblocking(False)
    return opened


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def lan_hosts(settings: Settings) -> tuple[str, ...]:
    """The addresses of this machine on the LAN now, best first; none while it has no network.

    Link-local ones of IPv6, which every interface has while it waits for another, can't be dialled without a zone.
    """
    found = settings.lan_hosts or announced_addresses(interfaces_in_use(settings.interfaces))
    return tuple(host for host in found if not (":" in host and ipaddress.ip_address(host).is_link_local))


def with_port(host: str, port: int) -> str:
    """`host:port`, as others dial it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
