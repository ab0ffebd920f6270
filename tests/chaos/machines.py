"""A machine that things happen to: its daemon, kept running as systemd would, and every process that belongs to it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import psutil

from node.ray_session import leftover, processes
from tests.chaos.clock import WallClock
from tests.chaos.disk import SmallDisk
from tests.cluster.real_nodes import RealNode
from tests.support import netns

# The systemd unit waits 2 s.
RESTART_S = 1.0
START_LIMIT_S = 60.0
LOOK_S = 0.02
# A broken connection may be noticed before the death behind it is.
NOTICE_S = 0.5
CONTROL_STORE, RAYLET, AGENT, COORDINATOR = "gcs_server", "raylet", "ray::NodeAgent", "ray::Coordinator"


class Machine:
    """One of the cluster's.

    Attributes:
        cable, disk, clock: None: it has no cable that can be pulled, no disk that can be filled, no clock to be set.
        deaths: how its daemon ended when nobody had ended it.
        session_folders: every folder that its Ray sessions have had.
    """

    def __init__(
        self, node: RealNode, *, cable: netns.Machine | None, disk: SmallDisk | None, clock: WallClock | None
    ) -> None:
        self.node, self.cable, self.disk, self.clock = node, cable, disk, clock
        self.deaths: list[str] = []
        self.session_folders: set[Path] = set()
        self._down: list[tuple[float, float]] = []
        self._down_since_s: float | None = None
        self._expected = False
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"keep {node.name}", daemon=True)
        if clock is not None:
            node.settings |= clock.environment

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def state_dir(self) -> Path:
        return self.node.home / ".ayni"

    def inside(self) -> AbstractContextManager[None]:
        """The connections that this thread opens within the block are that machine's own."""
        return self.node.place.inside()

    def start(self) -> None:
        """Start the daemon, and again whenever it ends."""
        self.node.start()
        self._keeper.start()

    def end(self) -> None:
        """Stop the daemon in order, for good."""
        self._ending.set()
        if self._keeper.ident is not None:
            self._keeper.join(60)
        if self.node.process is not None and self.node.process.poll() is None:
            self.node.stop()

    def kill(self) -> int:
        """Kill the daemon; its process id."""
        return self._end_daemon(psutil.Process.kill)

    def restart(self) -> int:
        """Have the daemon end in order and start again; its process id."""
        return self._end_daemon(psutil.Process.terminate)

    def was_down(self, since_s: float, until_s: float) -> bool:
        """Whether its daemon was not there at some moment between these two (monotonic clock)."""
        spans = [*self._down, *([(self._down_since_s, time.monotonic())] if self._down_since_s is not None else [])]
        return any(begin_s - NOTICE_S < until_s and end_s + NOTICE_S > since_s for begin_s, end_s in spans)

    # Its processes

    def daemon(self) -> list[int]:
        process = self.node.process
        return [process.pid] if process is not None and process.poll() is None else []

    def runners(self) -> list[int]:
        return [child.pid for child in self.children() if "node.runner" in _words(child)]

    def children(self) -> list[psutil.Process]:
        """Everything below the daemon."""
        found: list[psutil.Process] = []
        for pid in self.daemon():
            with contextlib.suppress(psutil.Error):
                found = psutil.Process(pid).children(recursive=True)
        return found

    def ray(self, name: str = "") -> list[int]:
        """The processes of its Ray session with that name, or all of them."""
        record = self._session()
        members = processes.members(record.session_id, record.folder) if record and record.session_id else {}
        return [pid for pid, words in members.items() if words and name in (Path(words[0]).name.strip(), "")]

    def _session(self) -> leftover.SessionRecord | None:
        path = self.state_dir / "cluster" / "ray" / leftover.FILE
        try:
            return msgspec.json.decode(
                path.read_bytes(), type=leftover.SessionRecord, dec_hook=lambda _, text: Path(text)
            )
        except (OSError, msgspec.DecodeError):
            return None

    # Keeping it

    def _end_daemon(self, how: Callable[[psutil.Process], None]) -> int:
        for pid in self.daemon():
            self._expected = True
            if self._down_since_s is None:
                self._down_since_s = time.monotonic()
            with contextlib.suppress(psutil.Error):
                how(psutil.Process(pid))
            return pid
        return 0

    def _keep(self) -> None:
        while not self._ending.wait(LOOK_S):
            if (record := self._session()) is not None:
                self.session_folders.add(record.folder)
            process = self.node.process
            assert process is not None
            if process.poll() is not None:
                self._bring_back(process.returncode)

    def _bring_back(self, status: int) -> None:
        if self._down_since_s is None:
            self._down_since_s = time.monotonic()
        if not self._expected:
            self.deaths.append(f"{self.name}'s daemon ended by itself with status {status}")
        self._expected = False
        if self._ending.wait(RESTART_S):
            return
        try:
            self.node.start(START_LIMIT_S)
        except AssertionError as error:
            hindered = self._expected or (self.disk is not None and self.disk.is_full)
            if not hindered:
                self.deaths.append(f"{self.name}'s daemon does not start: {str(error)[-2000:]}")
            return  # and again
        self._down.append((self._down_since_s, time.monotonic()))
        self._down_since_s = None


@contextlib.contextmanager
def suspended(pids: list[int]) -> Iterator[list[int]]:
    """These processes stand still within the block; one that is killed meanwhile stays dead."""
    held = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            process.suspend()
            held.append(process)
    try:
        yield [process.pid for process in held]
    finally:
        for process in held:
            with contextlib.suppress(psutil.Error):
                process.resume()


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
