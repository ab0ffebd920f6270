"""The daemon's process: take the port, open the models and the node, serve until told to stop, leave nothing behind.

Exit codes: 0 stopped when told to; 1 could not start (port taken, folder unusable, bad address).
"""

from __future__ import annotations

import asyncio
import errno
import gc
import http.client
import json
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from node.daemon_file import DaemonRecord, remove_daemon_record, write_daemon_record
from node.logs import begin_logging
from node.private_folder import make_private_folder
from node.settings import Settings

if TYPE_CHECKING:
    import uvicorn

    from api.cluster.host import ClusterHost
    from api.daemon import Daemon
    from node.supervisor import Supervisor

log = logging.getLogger(__name__)

# When the time for running streams is up, each says so in its last line. That and the end of the runners get so long.
CLOSE_S = 10.0
BACKLOG = 1024
PROBE_S = 1.0
# Each client takes a file descriptor; macOS allows a process 256 unless it asks for more.
OPEN_FILES = 8192
# The collector gets this long to take the last spans.
TRACES_S = 2.0
# Of what /metrics says about GPUs; asking them starts a process.
DEVICES_AGE_S = 30.0


def run(settings: Settings, *, version: str) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code; what went wrong is one line on stderr."""
    started_s = time.monotonic()
    begin_logging(settings.log_level, settings.log_format)
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        print(port_complaint(settings.host, settings.port, error), file=sys.stderr)  # noqa: T201 - meant for people
        return 1
    with closing(listener):
        try:
            for folder in (settings.models_dir, settings.state_dir):
                make_private_folder(folder)
        except OSError as error:
            print(f"Error: can't use {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201
            return 1
        _allow_open_files()
        # Only now: whoever asks from here on waits in the backlog while these are imported.
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, listener, version, started_s))
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError: the port is taken, or the address is not this machine's."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def port_complaint(host: str, port: int, error: OSError) -> str:
    """Why the daemon can't listen, and what to do about it, in one line."""
    here = _address_text(host, port)
    if error.errno != errno.EADDRINUSE:
        return f"Error: can't listen on {here}: {error.strerror or error}"
    holder = who_answers(host, port)
    if holder == "ayni":
        return f"Error: a node is already running on {here}; stop it with `ayni shutdown`"
    beside = f"run beside it with AYNI_HOST={_address_text(host, port + 66 if port < 65000 else port - 66)}"
    if holder == "ollama":
        return (
            f"Error: an Ollama server holds {here}; {beside}, or stop it and take over its models "
            "with AYNI_MODELS_DIR=~/.ollama/models"
        )
    return f"Error: another program holds {here}; {beside}"


def _address_text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def who_answers(host: str, port: int) -> str:
    """What listens there: "ayni", "ollama", or "" for anything else."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - asked, not bound
    connection = http.client.HTTPConnection(address, port, timeout=PROBE_S)
    try:
        connection.request("GET", "/api/version")
        answer = json.loads(connection.getresponse().read(4096))
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    finally:
        connection.close()
    if not isinstance(answer, dict):
        return ""
    return "ayni" if "ayni" in answer else "ollama" if "version" in answer else ""


async def _serve(settings: Settings, listener: socket.socket, version: str, started_s: float) -> None:
    import uvicorn

    from api.app import create_app
    from api.bounded_http import BoundedHttp
    from api.cluster.host import ClusterHost
    from api.daemon import Daemon
    from node.devices import DeviceSource, RecentMachine
    from node.supervisor import Supervisor
    from node.telemetry import Telemetry, begin_tracing
    from registry import ModelStore

    store = ModelStore(settings.models_dir, cache_dir=settings.cache_dir)
    devices = DeviceSource()
    name = settings.node_name or socket.gethostname()
    telemetry = Telemetry(begin_tracing(settings.otlp_endpoint, version=version, node=name))
    node = Supervisor(settings, devices, telemetry=telemetry)
    host, port = listener.getsockname()[:2]
    daemon = Daemon(
        store=store,
        node=node,
        settings=settings,
        version=version,
        bound_host=settings.host,
        telemetry=telemetry,
        devices=RecentMachine(devices, DEVICES_AGE_S),
    )
    cluster = daemon.cluster = ClusterHost(daemon, node, devices)
    app = create_app(daemon)

    class Server(uvicorn.Server):
        """Uvicorn, without its own idea of signals: it would raise them again when it has ended."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server = Server(
        uvicorn.Config(
            app,
            http=BoundedHttp,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # Longer than the pools of common clients, so that they drop idle connections first.
            timeout_keep_alive=75,
            backlog=BACKLOG,
        )
    )
    stopping = _Stopping(server, cluster, node)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.signalled)
    record = _publish(daemon, host, port)
    cluster.start()
    # What has been imported by now stays: keep it out of every later collection, which would stall the streams.
    gc.collect()
    gc.freeze()
    log.info(
        "listening address=%s version=%s models=%s start_s=%.2f",
        _address_text(host, port),
        version,
        settings.models_dir,
        time.monotonic() - started_s,
    )
    try:
        await server.serve(sockets=[listener])
    finally:
        await cluster.retired()
        stopping.close()
        if record is not None:
            remove_daemon_record(settings.state_dir, record)
        try:
            async with asyncio.timeout(CLOSE_S):
                await cluster.close()
                await node.close()
        except TimeoutError:
            log.warning("runners did not end in time; they end with this process")
        store.close()
        await asyncio.to_thread(telemetry.tracer.close, TRACES_S)
        log.info("stopped")


class _Stopping:
    """The first signal lets running streams go on for a while, in a cluster on other machines; the second does not."""

    def __init__(self, server: uvicorn.Server, cluster: ClusterHost, node: Supervisor) -> None:
        self._server, self._cluster, self._node = server, cluster, node
        self._ending: asyncio.Task[None] | None = None

    def signalled(self) -> None:
        """A signal came."""
        if self._ending is None:
            limit_s = self._cluster.retire()
            log.info("stopping; running streams may go on for %.0f s", limit_s)
            self._server.config.timeout_graceful_shutdown = int(limit_s + CLOSE_S)
            self._ending = asyncio.create_task(self._end_streams(limit_s), name="end streams")
        else:
            log.info("stopping at once")
            self._server.force_exit = True
            self._cluster.give_up()
        self._server.should_exit = True

    def close(self) -> None:
        """All has ended before its time."""
        if self._ending is not None:
            self._ending.cancel()

    async def _end_streams(self, limit_s: float) -> None:
        await asyncio.sleep(limit_s)
        self._cluster.give_up()
        await self._node.close()


def _publish(daemon: Daemon, host: str, port: int) -> DaemonRecord | None:
    """Tell this user's commands where the daemon is, and its key; one that they can't find still serves."""
    state_dir = daemon.settings.state_dir
    try:
        return write_daemon_record(state_dir, host=host, port=port, version=daemon.version, key=daemon.key)
    except OSError as error:
        log.warning("no record of this daemon written: %s", error)
        return None


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
