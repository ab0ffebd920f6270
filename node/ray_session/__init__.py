"""This node's Ray processes: which ones, started, watched, ended; the daemon itself never imports ray."""

from __future__ import annotations

from node.ray_session.errors import PortsTaken, RayCommandFailed, RayControlLost, RaySessionError, RayUnusable
from node.ray_session.formation import Formation, Role, new_token
from node.ray_session.keeper import RayKeeper, RayStatus
from node.ray_session.launcher import Actors, RayLauncher, address_towards
from node.ray_session.leftover import sweep
from node.ray_session.plan import SessionPlan
from node.ray_session.ports import RayPorts, choose_ports
from node.ray_session.versions import RayVersions, ray_versions

__all__ = [
    "Actors",
    "Formation",
    "PortsTaken",
    "RayCommandFailed",
    "RayControlLost",
    "RayKeeper",
    "RayLauncher",
    "RayPorts",
    "RaySessionError",
    "RayStatus",
    "RayUnusable",
    "RayVersions",
    "Role",
    "SessionPlan",
    "address_towards",
    "choose_ports",
    "new_token",
    "ray_versions",
    "sweep",
]
