"""A real daemon in a process of its own, started as `ayni serve`, with folders of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0


@dataclass
class DaemonProcess:
    """A running daemon; `log` is its stderr so far."""

    process: subprocess.Popen[bytes]
    url: str
    home: Path
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def runners(self) -> list[psutil.Process]:
        """The runner processes that it has started."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "node.runner" in " ".join(_command_line(child))]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_LIMIT_S)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def environment(home: Path, **settings: str) -> dict[str, str]:
    """Only what a daemon needs: nothing of the caller's own Ollama or Ayni settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AYNI_", "OLLAMA_", "XDG_"))}
    return kept | {"HOME": str(home), "AYNI_HOST": "127.0.0.1:0", "PYTHONPATH": str(ROOT)} | settings


@contextlib.contextmanager
def running_daemon(
    home: Path, *, settings: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
) -> Iterator[DaemonProcess]:
    """Start a daemon and stop it afterwards; `before` runs in the child before the daemon does."""
    home.mkdir(parents=True, exist_ok=True)
    state_dir = home / ".ayni"
    known = set(state_dir.glob("daemon-*.json"))
    log_path = home / f"daemon-{time.monotonic_ns()}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "serve"],
            cwd=ROOT,
            env=environment(home, **(settings or {})),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=before,
        )
    try:
        yield DaemonProcess(process, _await_url(process, state_dir, known, log_path), home, log_path)
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_LIMIT_S)
        for stray in [process, *children]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                stray.kill()
        process.wait()


def _await_url(process: subprocess.Popen[bytes], state_dir: Path, known: set[Path], log_path: Path) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the daemon ended with {process.returncode}: {log_path.read_text()}")
        if new := set(state_dir.glob("daemon-*.json")) - known:
            url = f"http://127.0.0.1:{new.pop().stem.removeprefix('daemon-')}"
            httpx.get(f"{url}/api/version", timeout=START_LIMIT_S).raise_for_status()
            return url
        time.sleep(0.02)
    raise AssertionError(f"the daemon did not come up: {log_path.read_text()}")
