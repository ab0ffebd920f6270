from __future__ import annotations

import sys

import pytest

from node.devices import Device, DeviceSource
from node.errors import DevicesUnknown


def printing(text: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", f"print({text!r})")


CPU = '{"name": "CPU", "kind": "cpu", "total_bytes": 9, "free_bytes": 9}'
GPU = '{"name": "CUDA0", "description": "A card", "kind": "gpu", "total_bytes": 8, "free_bytes": 5}'
IGPU = '{"name": "Vulkan0", "kind": "igpu", "total_bytes": 8, "free_bytes": 5}'


async def test_the_engines_own_libraries_list_this_machines_processor() -> None:
    before = set(sys.modules)
    devices = await DeviceSource().probe()
    assert [device.name for device in devices if device.kind == "cpu"] == ["CPU"]
    assert "llama_cpp" not in set(sys.modules) - before


async def test_gpus_come_in_the_engines_order_and_what_drivers_print_before_is_ignored() -> None:
    source = DeviceSource(command=printing(f"driver 1.0 says hello\n[{CPU}, {GPU}]"))
    machine = await source.machine(refresh=True)
    card = Device(name="CUDA0", description="A card", total_bytes=8, free_bytes=5)
    assert machine.gpus == (card,)
    assert machine.ram.total_bytes > 0


async def test_integrated_gpus_count_only_where_there_is_no_other() -> None:
    alone = await DeviceSource(command=printing(f"[{CPU}, {IGPU}]")).machine(refresh=True)
    beside = await DeviceSource(command=printing(f"[{IGPU}, {GPU}]")).machine(refresh=True)
    assert [gpu.name for gpu in alone.gpus] == ["Vulkan0"]
    assert [gpu.name for gpu in beside.gpus] == ["CUDA0"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (printing("no devices today"), "unreadable answer"),
        ((sys.executable, "-c", "import sys; sys.exit('the driver is broken')"), r"status 1 \(the driver is broken\)"),
        (("/nonexistent/program",), "No such file"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "no answer within"),
    ],
)
async def test_a_probe_that_fails_says_why_and_leaves_a_machine_without_gpus(
    command: tuple[str, ...], reason: str
) -> None:
    source = DeviceSource(command=command, limit_s=2.0 if "sleep" not in command[-1] else 0.3)
    with pytest.raises(DevicesUnknown, match=reason):
        await source.probe()
    assert (await source.machine(refresh=False)).gpus == ()
