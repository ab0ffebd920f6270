"""The two servers, started on free ports of loopback in a scratch folder, and stopped by process id."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client import get_status

ROOT = Path(__file__).resolve().parent.parent
AYNI = ROOT / "scripts" / "ayni"
START_LIMIT_S = 120.0
COMMAND_LIMIT_S = 120.0
STOP_LIMIT_S = 15.0
POLL_S = 0.005
# Our own settings of these kinds would measure something else; the caches of the bootstrap are no setting.
KEPT_VARIABLES = ("AYNI_CACHE_DIR", "AYNI_ENGINE", "AYNI_PYTHON")


class ServerFailed(Exception):
    """A server did not come up; the message ends with its output."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and the name under which it serves the measured model."""

    name: str
    pid: int
    port: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class Slots:
    """How a server is to hold a model: sequences at once, context of each, computing threads."""

    parallel: int
    context_tokens: int
    threads: int


def free_port(address: str = "127.0.0.1") -> int:
    """A port of an address of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def ayni_environment(home: Path, port: int, **settings: str) -> dict[str, str]:
    """The environment of an Ayni that knows nothing of this user's models and settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OLLAMA_", "AYNI_")) or name in KEPT_VARIABLES
    }
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    ours = {"HOME": str(home), "XDG_CACHE_HOME": cache, "OLLAMA_HOST": f"127.0.0.1:{port}"}
    return inherited | ours | settings


@asynccontextmanager
async def running(
    command: Sequence[str | Path],
    *,
    name: str,
    port: int,
    ready_path: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Server]:
    """Start a server, wait until `ready_path` answers 200, and stop it at the end. Raises ServerFailed."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        async with asyncio.timeout(START_LIMIT_S):
            while await get_status(port, ready_path) != 200:
                if process.returncode is not None:
                    raise ServerFailed(f"{name} ended with {process.returncode}:\n{_tail(log)}")
                await asyncio.sleep(POLL_S)
        yield Server(name, process.pid, port)
    except TimeoutError as error:
        raise ServerFailed(f"{name} did not answer in time:\n{_tail(log)}") from error
    finally:
        await _stop(process)


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_LIMIT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def run_ayni(arguments: Sequence[str | Path], environment: Mapping[str, str]) -> None:
    """Run an `ayni` command to its end. Raises ServerFailed when it fails or takes too long."""
    process = await asyncio.create_subprocess_exec(
        AYNI, *arguments, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(COMMAND_LIMIT_S):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise ServerFailed(f"ayni {arguments[0]} took over {COMMAND_LIMIT_S:.0f} s") from error
    finally:
        await _stop(process)
    if process.returncode:
        text = output.decode(errors="replace")[-3000:]
        raise ServerFailed(f"ayni {arguments[0]} ended with {process.returncode}:\n{text}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


@asynccontextmanager
async def llama_server(program: Path, model: Path, slots: Slots) -> AsyncIterator[Server]:
    """llama.cpp's server. Its copy of idle slots to RAM is off: prompts here never come back, so it only costs."""
    port = free_port()
    command: list[str | Path] = [program, "-m", model, "--host", "127.0.0.1", "--port", str(port)]
    command += ["-np", str(slots.parallel), "-c", str(slots.parallel * slots.context_tokens)]
    command += ["-t", str(slots.threads), "--cache-ram", "0"]
    with tempfile.TemporaryDirectory(prefix="ayni-bench-") as scratch:
        log = Path(scratch) / "log"
        async with running(command, name="llama-server", port=port, ready_path="/health", log=log) as server:
            yield server


@asynccontextmanager
async def ayni_server(model: Path, slots: Slots) -> AsyncIterator[Server]:
    """`ayni serve` with the model created in it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ayni-bench-") as scratch:
        home = Path(scratch)
        environment = ayni_environment(home, port, OLLAMA_NUM_PARALLEL=str(slots.parallel), OLLAMA_KEEP_ALIVE="-1")
        async with running(
            [AYNI, "serve"],
            name="ayni",
            port=port,
            ready_path="/api/version",
            log=home / "log",
            environment=environment,
        ) as server:
            modelfile = home / "Modelfile"
            modelfile.write_text(
                f"FROM {model}\nPARAMETER num_ctx {slots.context_tokens}\nPARAMETER num_thread {slots.threads}\n"
            )
            await run_ayni(["create", "measured", "-f", modelfile], environment)
            yield Server(server.name, server.pid, port, "measured")
