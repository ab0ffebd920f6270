"""What this machine can compute with: its memory and its GPUs, as the engine itself sees them."""

from __future__ import annotations

from node.devices.memory import Ram, read_ram
from node.devices.recent import RecentMachine
from node.devices.source import Device, DeviceSource, Machine, MachineSource

__all__ = ["Device", "DeviceSource", "Machine", "MachineSource", "Ram", "RecentMachine", "read_ram"]
