"""Child process: prints ggml's device list as JSON. Run by path, isolated (`python -I -S probe.py LIBRARY_DIR`).

A process of its own, because listing GPUs makes a driver context that holds hundreds of MB until the process ends,
and because a broken driver may crash or hang. Only the ggml libraries are loaded, by ctypes: importing
`llama_cpp` would cost ten times as long. Nothing but the standard library is imported, for the same reason.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

# enum ggml_backend_dev_type
KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel", 4: "meta"}


def _load(directory: Path, name: str) -> ctypes.CDLL:
    for file in (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll", f"lib{name}.dll"):
        if (path := directory / file).exists():
            return ctypes.CDLL(str(path))
    raise OSError(f"no {name} library in {directory}")


def list_devices(directory: Path) -> list[dict[str, object]]:
    """Every device that ggml registers, in its order. Source: ggml-backend.h. Raises OSError, AttributeError."""
    base, registry = _load(directory, "ggml-base"), _load(directory, "ggml")
    if hasattr(registry, "ggml_backend_load_all_from_path"):
        # Backends built as plug-ins; a build that links them has registered them already.
        registry.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        registry.ggml_backend_load_all_from_path.restype = None
        registry.ggml_backend_load_all_from_path(str(directory).encode())
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for function in (base.ggml_backend_dev_name, base.ggml_backend_dev_description):
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    base.ggml_backend_dev_type.restype = ctypes.c_int
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    base.ggml_backend_dev_memory.restype = None
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_pointer, size_pointer]
    devices: list[dict[str, object]] = []
    for index in range(registry.ggml_backend_dev_count()):
        device = registry.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        devices.append(
            {
                "name": base.ggml_backend_dev_name(device).decode(errors="replace"),
                "description": base.ggml_backend_dev_description(device).decode(errors="replace"),
                "kind": KINDS.get(base.ggml_backend_dev_type(device), "accel"),
                "total_bytes": total.value,
                "free_bytes": free.value,
            }
        )
    return devices


if __name__ == "__main__":
    # Drivers print on stdout; the answer is the last line.
    sys.stdout.write("\n" + json.dumps(list_devices(Path(sys.argv[1]))) + "\n")
