"""Build llama.cpp's own server and batched benchmark from the very sources that our engine was compiled from.

The sources come in the llama-cpp-python source distribution that the lock file pins (version and SHA-256), through
pip's ordinary client, into the cache; the flags are those of `scripts/bootstrap.py`, so both sides are the same ggml.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from scripts.bootstrap import COMMON_FLAGS, ENGINE_FLAGS, STAMP, Meter, find_uv, say

DOWNLOAD_LIMIT_S = 1800
BUILD_LIMIT_S = 3600
PROGRAMS = ("llama-server", "llama-batched-bench")
# The server's web page would be downloaded at build time, and HTTPS is not measured.
PEER_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release -DCMAKE_BUILD_RPATH_USE_ORIGIN=ON -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF "
    "-DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF"
)


class PeerError(Exception):
    """A peer can't be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The source distribution that the lock file names."""

    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """As package indexes name it."""
        return f"llama_cpp_python-{self.version}.tar.gz"


@dataclass(frozen=True, slots=True)
class Peers:
    """Paths of the built programs."""

    server: Path
    batched_bench: Path


def read_pin(lock: str) -> Pin:
    """Find llama-cpp-python in a compiled requirements file. Raises PeerError unless it has exactly one hash."""
    match = re.search(r"^llama-cpp-python==([\w.]+)((?: *\\\n *--hash=sha256:[0-9a-f]{64})+)", lock, re.MULTILINE)
    hashes = re.findall(r"sha256:([0-9a-f]{64})", match[2]) if match else []
    if match is None or len(hashes) != 1:
        raise PeerError("the lock file must pin llama-cpp-python with the hash of its source distribution alone")
    return Pin(match[1], hashes[0])


def ensure_peers(lock_path: Path, cache: Path) -> Peers:
    """Download and build what is missing below `cache`. Raises PeerError."""
    pin = read_pin(lock_path.read_text())
    source = cache / f"llama.cpp-{pin.version}"
    programs = source / "build" / "bin"
    peers = Peers(*(programs / name for name in PROGRAMS))
    if not (source / "built").exists():
        if not (source / "CMakeLists.txt").exists():
            _unpack(_sdist(pin, lock_path, cache), source)
        _build(source)
        (source / "built").touch()
    return peers


def _sdist(pin: Pin, lock_path: Path, cache: Path) -> Path:
    """The verified tarball, downloaded unless the cache has it."""
    path = cache / pin.file_name
    if not path.exists():
        say(f"Downloading {pin.file_name} ...")
        cache.mkdir(parents=True, exist_ok=True)
        command = [find_uv(), "tool", "run", "--python", sys.executable, "pip", "download", "--no-deps"]
        command += ["--no-binary", ":all:", "--require-hashes", "-r", str(lock_path), "-d", str(cache)]
        _run(command, f"downloading {pin.file_name}", DOWNLOAD_LIMIT_S)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != pin.sha256:
        raise PeerError(f"{path} has SHA-256 {found}, the lock file says {pin.sha256}; remove it and try again")
    return path


def _unpack(sdist: Path, source: Path) -> None:
    """Extract only llama.cpp; it appears whole or not at all."""
    inside = f"{sdist.name.removesuffix('.tar.gz')}/vendor/llama.cpp"
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        with tarfile.open(sdist) as archive:
            members = [member for member in archive if member.name.startswith(inside + "/")]
            archive.extractall(scratch, members, filter="data")
        shutil.move(Path(scratch) / inside, source)


def _build(source: Path) -> None:
    """Configure and compile the two programs, showing how far the compiler is."""
    say("Building llama-server and llama-batched-bench; once, about 8 minutes on 2 cores ...")
    cmake = [found] if (found := shutil.which("cmake")) else [find_uv(), "tool", "run", "--with", "ninja", "cmake"]
    generator = ["-G", "Ninja"] if len(cmake) > 1 or shutil.which("ninja") else []
    engine = STAMP.read_text().split()[1] if STAMP.exists() else "cpu"
    flags = f"{PEER_FLAGS} {COMMON_FLAGS} {ENGINE_FLAGS[engine]} {os.environ.get('CMAKE_ARGS', '')}".split()
    build = source / "build"
    _run([*cmake, "-S", str(source), "-B", str(build), *generator, *flags], "configuring llama.cpp", 600)
    jobs = str(os.cpu_count() or 2)
    command = [*cmake, "--build", str(build), "--target", *PROGRAMS, "--parallel", jobs]
    _run(command, "building llama.cpp", BUILD_LIMIT_S)


def _run(command: list[str], what: str, limit_s: float) -> None:
    """Run a build step with a progress line. Raises PeerError with the end of its output."""
    meter = Meter(time.monotonic())
    tail: deque[str] = deque(maxlen=40)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    limit = threading.Timer(limit_s, process.terminate)
    limit.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            meter.show(line)
            tail.append(line)
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        limit.cancel()
        meter.close()
    if status:
        raise PeerError(f"{what} failed or took over {limit_s / 60:.0f} minutes:\n{''.join(tail)}")
