"""What a member tells of itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from api.cluster.reporter import Reporter
from node.devices import Device, Machine, Ram
from node.identity import NodeId
from registry import Digest

GPU = Device(name="CUDA0", description="a card", total_bytes=8 << 30, free_bytes=8 << 30)


class Devices:
    """A machine with one GPU, of which somebody else takes a part each time."""

    def __init__(self) -> None:
        self.looks = 0

    async def machine(self, *, refresh: bool = False) -> Machine:
        self.looks += 1
        return Machine(ram=Ram(1 << 34, 1 << 33), gpus=(GPU,))


def reporter(head: Literal["auto", "prefer", "never"] = "auto", **parts: Any) -> Reporter:
    nothing: Any = SimpleNamespace(
        loaded=list, loading=dict, prefill_bytes_s=0.0, decode_bytes_s=0.0, load_bytes_s=0.0, list=list
    )
    given: dict[str, Any] = {"store": nothing, "node": nothing, "devices": nothing, "footprints": nothing}
    return Reporter(
        NodeId("a" * 16),
        "a",
        version="1",
        ray_version="2",
        token_use=dict,
        waiting=dict,
        started_at=0.0,
        head=head,
        **given | parts,
    )


@pytest.mark.parametrize(("head", "preference"), [("auto", 0), ("prefer", 1), ("never", -1)])
def test_the_others_hear_whether_this_machine_is_to_be_head(
    head: Literal["auto", "prefer", "never"], preference: int
) -> None:
    assert reporter(head).report().head_preference == preference


@pytest.mark.parametrize(("plugged", "told"), [(True, False), (False, True), (None, False)])
async def test_a_laptop_away_from_its_charger_says_so(
    monkeypatch: pytest.MonkeyPatch, plugged: bool | None, told: bool
) -> None:
    battery = SimpleNamespace(percent=50, secsleft=9, power_plugged=plugged)
    monkeypatch.setattr("psutil.sensors_battery", lambda: battery, raising=False)
    devices = Devices()
    mine = reporter(devices=devices)
    keeping = asyncio.create_task(mine.keep(lambda: None))
    try:
        async with asyncio.timeout(4):
            while not devices.looks:  # noqa: ASYNC110 - what is awaited has no event
                await asyncio.sleep(0.01)
        assert mine.report().on_battery is told
    finally:
        keeping.cancel()


async def test_gpus_are_looked_at_again_when_a_model_has_come_or_gone() -> None:
    loaded: list[Any] = []
    devices = Devices()
    node: Any = SimpleNamespace(
        loaded=lambda: loaded, loading=dict, prefill_bytes_s=0.0, decode_bytes_s=0.0, load_bytes_s=0.0
    )
    told = reporter(devices=devices, node=node)
    told._resident = lambda item, now: item  # type: ignore[assignment,method-assign,return-value]
    keeping = asyncio.create_task(told.keep(lambda: None))

    async def until_looks(count: int) -> None:
        async with asyncio.timeout(4):
            while devices.looks < count:
                told.report()
                await asyncio.sleep(0.01)

    try:
        await until_looks(1)
        loaded.append(SimpleNamespace(weights=Digest.of(b"m"), embedding=False))
        await until_looks(2)
        loaded.clear()
        await until_looks(3)
    finally:
        keeping.cancel()
