"""What is pinned stays in memory as what it is for, and nothing else does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.cluster.pins import Pin, Pins
from registry import Digest, ModelName

WEIGHTS = Digest.of(b"weights")


class Memory:
    """A node that loads whatever it is asked to."""

    def __init__(self) -> None:
        self.pinned: frozenset[Any] = frozenset()
        self.items: dict[bool, Any] = {}
        self.go = asyncio.Event()
        self.go.set()

    def loaded(self) -> list[Any]:
        return list(self.items.values())

    async def load(self, model: Any, options: Any, keep_alive_s: float, *, embedding: bool = False) -> None:
        await self.go.wait()
        forever = keep_alive_s == math.inf
        self.items[embedding] = SimpleNamespace(
            weights=model.weights_digest, embedding=embedding, expires_at=None if forever else "later"
        )


def store(*capabilities: str) -> Any:
    model = SimpleNamespace(
        name=ModelName.parse("m"), weights_digest=WEIGHTS, parameters={}, capabilities=lambda: capabilities
    )
    return SimpleNamespace(resolve=lambda name: model)


@asynccontextmanager
async def pins(folder: Path, node: Any, *capabilities: str) -> AsyncIterator[Pins]:
    made = Pins(folder, node, store(*capabilities), keep_alive_s=300.0)
    keeping = asyncio.create_task(made.keep())
    try:
        yield made
    finally:
        keeping.cancel()


async def until(condition: Any) -> None:
    async with asyncio.timeout(4):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("capabilities", "embedding"),
    [(("completion",), False), (("completion", "embedding"), False), (("embedding",), True)],
)
async def test_a_model_is_kept_as_what_it_is_for_until_it_is_unpinned(
    tmp_path: Path, capabilities: tuple[str, ...], embedding: bool
) -> None:
    node = Memory()
    async with pins(tmp_path, node, *capabilities) as made:
        await made.answer(None, Pin(name="m", pinned=True))
        await until(lambda: node.items)
        assert node.pinned == {(WEIGHTS, embedding)}
        assert node.items[embedding].expires_at is None
        await made.answer(None, Pin(name="m", pinned=False))
        assert node.pinned == frozenset()
        assert node.items[embedding].expires_at == "later"


async def test_what_is_unpinned_while_it_is_being_loaded_does_not_stay(tmp_path: Path) -> None:
    node = Memory()
    node.go.clear()
    async with pins(tmp_path, node, "completion") as made:
        await made.answer(None, Pin(name="m", pinned=True))
        await until(lambda: node.pinned)
        await made.answer(None, Pin(name="m", pinned=False))
        node.go.set()
        await until(lambda: node.items and node.items[False].expires_at == "later")
        assert node.pinned == frozenset()


async def test_a_pin_rests_while_the_machine_is_drained_and_outlives_a_restart(tmp_path: Path) -> None:
    node = Memory()
    async with pins(tmp_path, node, "completion") as made:
        await made.answer(None, Pin(name="m", pinned=True))
        await until(lambda: node.items)
        made.suspend(on=True)
        await until(lambda: not node.pinned)
        node.items.clear()
        made.suspend(on=False)
        await until(lambda: node.items)
    again = Memory()
    async with pins(tmp_path, again, "completion"):
        await until(lambda: again.items)
