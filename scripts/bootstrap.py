"""Prepare the checkout's virtual environment: pinned packages, and llama.cpp compiled once for this machine.

Standard library only, because nothing is installed yet. `scripts/ayni` and `scripts/test` call it when the stamp in
`.venv` is missing or older than what it was made from; called again it finds everything in place. The compiled wheel
is kept per user, keyed by version, engine, flags and processor, so a second checkout does not compile.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
VENV = ROOT / ".venv"
STAMP = VENV / "ayni-ready"

# What each engine adds to the build. RPC is on everywhere: machines will share one large model through it.
ENGINE_FLAGS = {
    "cpu": "",
    "cuda": "-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native",
    "metal": "-DGGML_METAL=ON",
    "rocm": "-DGGML_HIP=ON",
    "vulkan": "-DGGML_VULKAN=ON",
}
COMMON_FLAGS = "-DGGML_RPC=ON"
# A stuck download or compiler must not hold a terminal for ever; CUDA on two cores is the slowest build known.
BUILD_LIMIT_S = 3 * 3600
INSTALL_LIMIT_S = 1800


class BootstrapError(Exception):
    """Something that a person has to mend; the message says what and how."""


def say(text: str) -> None:
    """Print one line of progress to standard error, which leaves standard output to the command itself."""
    print(text, file=sys.stderr, flush=True)


def cache_dir() -> Path:
    """Where compiled wheels and our own uv are kept: $AYNI_CACHE_DIR, or `ayni` in the user's cache folder."""
    if explicit := os.environ.get("AYNI_CACHE_DIR"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ayni"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, so that two terminals do not build the same thing at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up is running; waiting for it to finish ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_quietly(command: list[str], what: str) -> None:
    """Run a command; show its output only when it fails. Raises BootstrapError."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise BootstrapError(f"{what} failed:\n{done.stdout.strip()[-4000:]}")


def find_uv() -> str:
    """Return a uv command, installing the pinned one from PyPI into our cache where none is on the PATH."""
    if found := shutil.which("uv"):
        return found
    pins = SCRIPTS / "requirements-uv.txt"
    home = cache_dir() / f"uv-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    uv = home / "bin" / "uv"
    if not uv.exists():
        say("Installing uv ...")
        shutil.rmtree(home, ignore_errors=True)
        install_uv(pins, home)
    return str(uv)


def install_uv(pins: Path, home: Path) -> None:
    """Install uv below `home` with whichever of pip and venv this Python has. Raises BootstrapError."""
    fetch = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "--no-deps",
        "--only-binary=:all:",
        "-r",
        str(pins),
    ]
    with tempfile.TemporaryDirectory(prefix="ayni-uv-") as scratch:
        python = sys.executable
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
            made = subprocess.run([python, "-m", "venv", scratch], capture_output=True, check=False)
            if made.returncode:
                raise BootstrapError(
                    "Neither uv nor pip nor a complete venv module is here. Install uv (https://docs.astral.sh/uv) "
                    "or, on Debian and Ubuntu: sudo apt-get install python3-venv"
                )
            python = str(Path(scratch) / "bin" / "python")
        run_quietly([python, *fetch, "--prefix", str(home)], "Installing uv")
    if not (home / "bin" / "uv").exists():  # Debian's pip puts scripts below local/ even with --prefix
        for candidate in home.rglob("bin/uv"):
            (home / "bin").mkdir(exist_ok=True)
            (home / "bin" / "uv").symlink_to(candidate)
            return
        raise BootstrapError(f"pip installed uv, but no uv command appeared below {home}")


def chosen_engine() -> tuple[str, bool]:
    """Return the engine to build, and whether a person named it.

    AYNI_ENGINE decides where it is set. Otherwise a GPU engine is chosen where both its toolchain and its device are
    found: a toolchain alone (a build server) would compile for half an hour for nothing.
    """
    if named := os.environ.get("AYNI_ENGINE"):
        if named not in ENGINE_FLAGS:
            raise BootstrapError(f"AYNI_ENGINE={named}: choose one of {', '.join(ENGINE_FLAGS)}")
        return named, True
    if sys.platform == "darwin":
        return ("metal" if platform.machine() == "arm64" else "cpu"), False
    if Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists():  # dxg: the GPU of Windows' Linux subsystem
        if shutil.which("nvcc"):
            return "cuda", False
        say("An NVIDIA GPU is here, but no CUDA toolkit (nvcc). Install it and set AYNI_ENGINE=cuda to use the GPU.")
    if Path("/dev/kfd").exists() and shutil.which("hipcc"):
        return "rocm", False
    has_vulkan = shutil.which("glslc") and Path("/usr/include/vulkan/vulkan.h").exists()
    if has_vulkan and any(Path("/dev/dri").glob("renderD*")):
        return "vulkan", False
    return "cpu", False


def cpu_identity() -> str:
    """Name the processor: the build uses its own instructions, so a wheel is good only for its like."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def engine_wheel(uv: str, engine: str) -> Path:
    """Return the llama-cpp-python wheel for this machine, compiling it if the cache has none."""
    pins = SCRIPTS / "requirements-engine.txt"
    flags = " ".join(filter(None, [COMMON_FLAGS, ENGINE_FLAGS[engine], os.environ.get("CMAKE_ARGS", "")]))
    identity = "\0".join([pins.read_text(), flags, sysconfig.get_platform(), cpu_identity()])
    version = re.search(r"==([\w.]+)", pins.read_text())
    assert version is not None, "requirements-engine.txt pins one version"
    key = f"llama-cpp-python-{version[1]}-{engine}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    folder = cache_dir() / "wheels" / key
    with locked(folder.parent / f"{key}.lock"):
        if wheels := sorted(folder.glob("*.whl")):
            return wheels[0]
        check_compiler()
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder.parent) as scratch:
            compile_wheel(uv, pins, flags, engine, Path(scratch))
            folder.mkdir()
            built = next(Path(scratch).glob("*.whl"))
            return built.replace(folder / built.name)


def check_compiler() -> None:
    """Raise BootstrapError with the remedy when no C++ compiler is found."""
    if any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        return
    raise BootstrapError(
        "Ayni compiles llama.cpp once for this machine and found no C++ compiler. Install one and try again:\n"
        "  Debian, Ubuntu: sudo apt-get install build-essential\n"
        "  Fedora:         sudo dnf install gcc-c++\n"
        "  Arch:           sudo pacman -S base-devel\n"
        "  macOS:          xcode-select --install"
    )


def compile_wheel(uv: str, pins: Path, flags: str, engine: str, out: Path) -> None:
    """Compile the engine into `out`, showing how far ninja is. Raises BootstrapError with the end of its log."""
    say(f"Compiling llama.cpp for this machine (engine: {engine}); once, about 5 minutes on 2 cores ...")
    command = [uv, "tool", "run", "--python", sys.executable, "pip", "wheel", "--verbose", "--no-deps"]
    command += [
        "--require-hashes",
        "--no-binary",
        ":all:",
        "--no-cache-dir",
        "--wheel-dir",
        str(out),
        "-r",
        str(pins),
    ]
    log_path = out / "build.log"
    started = time.monotonic()
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "CMAKE_ARGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        meter = Meter(started)
        try:
            for line in process.stdout:
                log.write(line)
                meter.show(line)
                if time.monotonic() - started > BUILD_LIMIT_S:
                    raise BootstrapError(f"Compiling took over {BUILD_LIMIT_S // 3600} hours and was stopped.")
        finally:
            meter.close()
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.terminate()
            status = process.wait()
    if status:
        tail = "".join(log_path.read_text(errors="replace").splitlines(keepends=True)[-40:])
        raise BootstrapError(f"Compiling llama.cpp failed (engine: {engine}):\n{tail}")
    say(f"Compiled in {time.monotonic() - started:.0f} s; kept for later checkouts.")


class Meter:
    """One line on a terminal that follows ninja's `[done/total]`; a line every tenth where output is a file."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._on_terminal = sys.stderr.isatty()
        self._shown_tenth = 0
        self._open = False

    def show(self, line: str) -> None:
        """Take one line of build output."""
        if not (match := re.match(r"\s*\[(\d+)/(\d+)\]", line)):
            return
        done, total = int(match[1]), int(match[2])
        text = f"  {100 * done // total:3d} %  {done}/{total} files  {time.monotonic() - self._started:.0f} s"
        if self._on_terminal:
            print(f"\r{text}", end="", file=sys.stderr, flush=True)
            self._open = True
        elif (tenth := 10 * done // total) > self._shown_tenth:
            self._shown_tenth = tenth
            say(text)

    def close(self) -> None:
        """End the line."""
        if self._open:
            print(file=sys.stderr)
            self._open = False


def build_engine(uv: str) -> tuple[Path, str]:
    """Return the wheel and its engine; an engine that was only guessed gives way to the CPU if it does not build."""
    engine, named = chosen_engine()
    try:
        return engine_wheel(uv, engine), engine
    except BootstrapError as error:
        if named or engine == "cpu":
            raise
        say(f"{error}\nGoing on with the CPU engine; AYNI_ENGINE={engine} tries again.")
        return engine_wheel(uv, "cpu"), "cpu"


def prepare(profile: str) -> None:
    """Make `.venv` hold what `profile` ("run" or "dev") needs, then write the stamp."""
    uv = find_uv()
    python = VENV / "bin" / "python"
    with locked(cache_dir() / f"checkout-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]}.lock"):
        works = python.exists() and not subprocess.run([python, "-c", ""], check=False).returncode
        if not works:
            run_quietly(
                [uv, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, str(VENV)],
                "Creating .venv",
            )
        wheel, engine = build_engine(uv)
        say("Installing packages ...")
        pins = SCRIPTS / ("requirements-dev.txt" if profile == "dev" else "requirements.txt")
        install = [uv, "pip", "install", "--quiet", "--python", str(python), "--compile-bytecode"]
        run_quietly([*install, "--require-hashes", "-r", str(pins)], "Installing packages")
        run_quietly(
            [*install, "--no-deps", "--reinstall-package", "llama-cpp-python", str(wheel)],
            "Installing the engine",
        )
        STAMP.write_text(f"{profile} {engine}\n")


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("profile", choices=["run", "dev"])
    try:
        prepare(parser.parse_args().profile)
    except BootstrapError as error:
        say(f"Error: {error}")
        return 1
    except subprocess.TimeoutExpired as error:
        say(f"Error: {shlex.join(map(str, error.cmd))} did not finish in {error.timeout:.0f} s")
        return 1
    except KeyboardInterrupt:
        say("Stopped; run the same command to go on.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
