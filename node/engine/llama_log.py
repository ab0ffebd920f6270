"""llama.cpp's log: warnings go to stderr (bounded), load-time lines tell what was allocated and why a load failed."""

from __future__ import annotations

import re
import sys
from collections import defaultdict, deque
from typing import Any, ClassVar

import llama_cpp.llama_cpp as llama

from node.runner.protocol import DeviceBytes

_WARN, _ERROR, _CONTINUE = 3, 4, 5  # enum ggml_log_level
_MAX_STDERR_LINES = 500
_MAX_LINE_CHARS = 500
_MIB = 1 << 20
# "llama_kv_cache:        CPU KV buffer size =   112.00 MiB"
_BUFFER_LINE = re.compile(
    r"^\w+:\s+(?P<buffer>\S+)\s+(?:\S+ )*?(?P<kind>model|KV|RS|state|compute|output|LoRA)"
    r" buffer size =\s*(?P<mib>[\d.]+) MiB"
)
# What each kind of buffer counts as in `DeviceBytes`.
_FIELD = {
    "model": 0,
    "LoRA": 0,
    "KV": 1,
    "RS": 1,
    "state": 1,
    "compute": 2,
    "output": 2,
}


def device_of(buffer: str) -> str:
    """The device of a ggml buffer name: `CPU_Mapped`, `CPU_REPACK`, `CUDA_Host` are RAM; `CUDA0` is a GPU."""
    if buffer.startswith("CPU") or buffer.endswith("_Host"):
        return "CPU"
    return re.sub(r"_(Mapped|Private|Split)$", "", buffer)


def allocations(lines: list[str]) -> tuple[DeviceBytes, ...]:
    """Sum llama.cpp's "... buffer size = ... MiB" lines by device, RAM first."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for line in lines:
        if match := _BUFFER_LINE.search(line):
            totals[device_of(match["buffer"])][_FIELD[match["kind"]]] += round(float(match["mib"]) * _MIB)
    return tuple(DeviceBytes(d, *totals[d]) for d in sorted(totals, key=lambda d: (d != "CPU", d)))


class LlamaLog:
    """Receives llama.cpp's log from the moment it is made; one per process, as llama.cpp has one log."""

    # The library calls back for as long as the process lives.
    _listening: ClassVar[LlamaLog | None] = None

    def __init__(self) -> None:
        self.buffer_lines: list[str] = []
        self._errors: deque[str] = deque(maxlen=8)
        self._partial = ""
        self._level = 0
        self._stderr_lines = 0
        self._callback = llama.llama_log_callback(self._receive)
        llama.llama_log_set(self._callback, None)
        LlamaLog._listening = self

    def take_errors(self) -> list[str]:
        """The newest error lines since the last call, oldest first."""
        errors = list(self._errors)
        self._errors.clear()
        return errors

    def _receive(self, level: int, text: bytes, _user_data: Any) -> None:
        if level == _CONTINUE:
            level = self._level
        self._level = level
        self._partial = (self._partial + text.decode("utf-8", "replace"))[-4 * _MAX_LINE_CHARS :]
        *lines, self._partial = self._partial.split("\n")
        for line in lines:
            self._take(level, line[:_MAX_LINE_CHARS].strip())

    def _take(self, level: int, line: str) -> None:
        if " buffer size = " in line:
            self.buffer_lines.append(line)
        if level not in (_WARN, _ERROR) or not line:
            return
        if level == _ERROR:
            self._errors.append(line)
        self._stderr_lines += 1
        if self._stderr_lines <= _MAX_STDERR_LINES:
            sys.stderr.write(line + "\n")
        elif self._stderr_lines == _MAX_STDERR_LINES + 1:
            sys.stderr.write("llama.cpp goes on warning; no more of it is shown\n")
