"""Ask for this machine's devices: a short-lived child process lists the GPUs, the RAM is read here.

The list is kept, since GPUs do not come and go; what is free on them is asked anew when a caller needs it. A probe
that fails leaves a machine without GPUs, which can still serve, and says so in the log.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from node.devices.memory import Ram, read_ram
from node.errors import DevicesUnknown

log = logging.getLogger(__name__)

# A cold CUDA driver with eight GPUs takes some seconds to come up; a broken one would take for ever.
PROBE_LIMIT_S = 30.0
MAX_ANSWER_BYTES = 1 << 20


class Device(Struct, frozen=True, kw_only=True):
    """One device as ggml names it. `kind`: "igpu" shares the RAM; "cpu" is the RAM itself."""

    name: str
    description: str = ""
    kind: Literal["cpu", "gpu", "igpu", "accel", "meta"] = "gpu"
    total_bytes: int = 0
    free_bytes: int = 0

    @property
    def shares_ram(self) -> bool:
        """Whether its memory is the machine's RAM: integrated GPUs, and every Apple one."""
        return self.kind == "igpu" or self.name.startswith(("Metal", "MTL"))


class Machine(Struct, frozen=True, kw_only=True):
    """The memory of a machine at one moment; `gpus` in ggml's order, the one in which llama.cpp splits layers."""

    ram: Ram
    gpus: tuple[Device, ...] = ()


class MachineSource(Protocol):
    """Who knows the machine."""

    async def machine(self, *, refresh: bool) -> Machine:
        """The machine; `refresh`: with what is free now."""
        ...


class DeviceSource:
    """This machine, probed through the engine's own libraries."""

    def __init__(self, *, command: tuple[str, ...] | None = None, limit_s: float = PROBE_LIMIT_S) -> None:
        """`command`: what to run instead of our probe; it prints a JSON array of devices as its last line."""
        self._command, self._limit_s = command, limit_s
        self._devices: tuple[Device, ...] | None = None
        self._probing = asyncio.Lock()

    async def machine(self, *, refresh: bool) -> Machine:
        """The machine; a machine without GPUs where the probe fails."""
        async with self._probing:
            if self._devices is None or (refresh and _gpus(self._devices)):
                try:
                    self._devices = await self.probe()
                except DevicesUnknown as error:
                    log.warning("%s; going on without GPUs", error)
                    self._devices = ()
                else:
                    for device in self._devices:
                        log.debug(
                            "device %s (%s) total_bytes=%d free_bytes=%d",
                            device.name,
                            device.description,
                            device.total_bytes,
                            device.free_bytes,
                        )
        return Machine(ram=read_ram(), gpus=_gpus(self._devices))

    async def probe(self) -> tuple[Device, ...]:
        """Everything ggml lists, the CPU included. Raises DevicesUnknown."""
        command = self._command or _probe_command()
        try:
            child = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise DevicesUnknown(str(error)) from None
        try:
            async with asyncio.timeout(self._limit_s):
                output, complaint = await child.communicate()
        except TimeoutError:
            raise DevicesUnknown(f"no answer within {self._limit_s:.0f} s") from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode != 0:
            last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
            raise DevicesUnknown(f"status {child.returncode} ({last[:200]})")
        try:
            return msgspec.json.decode(output[-MAX_ANSWER_BYTES:].strip().rpartition(b"\n")[2], type=tuple[Device, ...])
        except msgspec.MsgspecError as error:
            raise DevicesUnknown(f"unreadable answer ({error})") from None


def _gpus(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """What layers can be given to, as llama.cpp chooses it: GPUs, integrated ones only if there is no other.

    Accelerators work in the CPU's memory, and a meta device wraps others.
    """
    usable = tuple(device for device in devices if device.kind in {"gpu", "igpu"} and device.total_bytes)
    return tuple(device for device in usable if device.kind == "gpu") or usable


def _probe_command() -> tuple[str, ...]:
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise DevicesUnknown("llama-cpp-python is not installed")
    libraries = Path(spec.origin).parent / "lib"
    return (sys.executable, "-I", "-S", str(Path(__file__).with_name("probe.py")), str(libraries))
