"""What Ray's commands are given: words and environment, as plain values.

Where a number or a flag looks odd it was measured: Ray notices a cut link after 63 s by default, hangs for ever on a
wrong token, and starts 300 MB of processes that nobody here uses.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from node.ray_session.formation import Formation, Role
from node.ray_session.ports import RayPorts

PACKAGE_ROOT = Path(__file__).parent.parent.parent
# How the agent of this node finds its daemon.
SOCKET_VARIABLE = "AYNI_AGENT_SOCKET"
# The smallest object store that Ray accepts; nothing of ours goes through it.
OBJECT_STORE_BYTES = 78_643_200
LOG_BYTES, LOG_FILES = 4 << 20, 2

_PASSED_ON = frozenset({"PATH", "HOME", "USER", "LANG", "TZ", "SYSTEMROOT"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files that Ray reads: this node's certificate and key, the authority, and the generation's token (0600)."""

    certificate: Path
    key: Path
    authority: Path
    token: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """One run of this node's Ray processes.

    Attributes:
        address: of this node; it must be in its certificate, or the control store buries the node after 20 s.
        folder: short, fresh for every start, closed to other users; every process of the session stays in it.
        store: folder of the head's database: kept between starts of one generation, so that a head whose process
            died comes back with everything it knew.
    """

    formation: Formation
    role: Role
    node: str
    address: str
    ports: RayPorts
    folder: Path
    store: Path
    credentials: Credentials

    @property
    def ray_folder(self) -> Path:
        """For Ray's sockets and logs. Ray gives every user the right to write there; `folder` keeps them out."""
        return self.folder / "r"  # a short name: see `leftover.SHORT_ROOT`

    @property
    def agent_socket(self) -> Path:
        """Where the daemon listens for this session's agent. Agents of other sessions do not know it."""
        return self.folder / "agent.sock"


def start_command(plan: SessionPlan) -> list[str]:
    """`ray start`, without --block (which would keep 110 MB for waiting)."""
    ports, (first_worker, last_worker) = plan.ports, plan.ports.workers
    where = (
        ["--head", f"--port={plan.formation.port}", "--include-dashboard=false", "--no-monitor"]
        if plan.role == "head"
        else [f"--address={plan.formation.gcs_address}"]
    )
    return [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start"),
        *where,
        f"--node-ip-address={plan.address}",
        f"--temp-dir={plan.ray_folder}",
        f"--labels=nodeid={plan.node}",
        f"--node-manager-port={ports.node_manager}",
        f"--object-manager-port={ports.object_manager}",
        f"--runtime-env-agent-port={ports.runtime_env_agent}",
        f"--dashboard-agent-listen-port={ports.agent_http}",
        f"--dashboard-agent-grpc-port={ports.agent_grpc}",
        f"--metrics-export-port={ports.metrics}",
        f"--min-worker-port={first_worker}",
        f"--max-worker-port={last_worker}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        # Amounts are fixed at the start, so what is free lives in our own view; Ray places by node only.
        *("--num-cpus=0", "--num-gpus=0"),
        *("--include-log-monitor=false", "--disable-usage-stats"),
    ]


def session_environment(plan: SessionPlan, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a session: what finds programs, Ray's settings, and nothing else of ours."""
    head_only = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(plan.store)} if plan.role == "head" else {}
    return {
        **_shared_environment(plan, environ),
        **head_only,
        # A cut link is noticed after 3 x (0.5 + 1.0) s. Shorter ones lose nodes that are merely busy.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        # Raylets and actors live on without a control store while the daemons decide.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "60",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # Models fill memory on purpose; Ray would end its actors at 95 %.
        "RAY_memory_monitor_refresh_ms": "0",
    }


def driver_environment(plan: SessionPlan, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a driver: as the session's, but it gives up in seconds instead of never."""
    return {
        **_shared_environment(plan, environ),
        "RAY_NUM_REDIS_GET_RETRIES": "2",
        "RAY_gcs_rpc_server_connect_timeout_s": "1",
        "RAY_py_gcs_connect_timeout_s": "2",
        "RAY_gcs_server_request_timeout_seconds": "2",
    }


def _shared_environment(plan: SessionPlan, environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if name in _PASSED_ON or name.startswith("LC_")}
    only_apple = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"} if sys.platform == "darwin" else {}
    return {
        **kept,
        **only_apple,
        "PYTHONPATH": str(PACKAGE_ROOT),
        "PYTHONSAFEPATH": "1",
        SOCKET_VARIABLE: str(plan.agent_socket),
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(plan.credentials.certificate),
        "RAY_TLS_SERVER_KEY": str(plan.credentials.key),
        "RAY_TLS_CA_CERT": str(plan.credentials.authority),
        # TLS alone leaves the RuntimeEnvAgent open, the token alone travels in clear: always both.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(plan.credentials.token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_grpc_client_keepalive_time_ms": "1500",
        "RAY_grpc_client_keepalive_timeout_ms": "1000",
        "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
        "RAY_ROTATION_MAX_BYTES": str(LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": str(LOG_FILES),
    }
