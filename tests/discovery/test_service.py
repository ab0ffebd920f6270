"""Real multicast, bound to 127.0.0.x only: nothing leaves this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import pytest

from node.discovery import (
    Advert,
    Discovery,
    Interface,
    NoMulticast,
    choose_interfaces,
    interfaces_in_use,
    look_around,
    open_discovery,
    service,
)
from node.identity import ClusterId, NodeId

HOME, OFFICE = ClusterId("a" * 16), ClusterId("b" * 16)


def advert(number: int, cluster: ClusterId = HOME) -> Advert:
    return Advert(
        node=NodeId(f"{number:08x}" * 2),
        node_name=f"Box {number}",
        cluster=cluster,
        cluster_name="ayni-test",
        port=11435,
        fingerprint="f" * 64,
        version="0.3.0",
    )


def on(address: str) -> Callable[[], tuple[Interface, ...]]:
    return partial(interfaces_in_use, (address,))


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.01)


def adverts(discovery: Discovery) -> set[Advert]:
    return {seen.advert for seen in discovery.sightings if seen.advert is not None}


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Discovery, Discovery]]:
    async with open_discovery(on("127.0.0.11")) as first, open_discovery(on("127.0.0.12")) as second:
        yield first, second


async def test_two_machines_see_each_other_and_each_change_and_goodbye(pair: tuple[Discovery, Discovery]) -> None:
    first, second = pair
    await first.announce(advert(1))
    await second.announce(advert(2))
    await until(lambda: {advert(1), advert(2)} <= adverts(first) & adverts(second))
    newer = replace(advert(1), generation=3, head=True)
    await first.announce(newer)
    await until(lambda: newer in adverts(second))
    assert [seen.addresses for seen in second.sightings if seen.advert == newer] == [("127.0.0.11",)]
    await first.close()
    await until(lambda: newer not in adverts(second))


async def test_each_change_of_the_table_is_told_once() -> None:
    told: list[int] = []
    async with open_discovery(on("127.0.0.11")) as first:
        await first.announce(advert(1))
        async with open_discovery(on("127.0.0.12"), lambda: told.append(1)) as second:
            await until(lambda: advert(1) in adverts(second))
            assert len(told) == len(second.sightings)


async def test_a_full_table_takes_who_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_SIGHTINGS", 2)
    async with open_discovery(on("127.0.0.12")) as watcher, AsyncExitStack() as stack:
        for number in (1, 2, 3):
            box = await stack.enter_async_context(open_discovery(on("127.0.0.11")))
            await box.announce(advert(number))
            await until(lambda number=number: advert(number) in adverts(watcher))  # type: ignore[misc]
        assert adverts(watcher) == {advert(2), advert(3)}


async def test_one_machine_answers_for_the_cluster_and_another_can_take_over(
    pair: tuple[Discovery, Discovery],
) -> None:
    first, second = pair
    await first.announce(advert(1))
    assert await first.speak_for_cluster("ayni-test", 11435) == "ayni-test.local"
    assert await second.resolve("ayni-test.local.") == {"127.0.0.11"}
    await second.announce(advert(2))
    await until(lambda: {advert(1), advert(2)} <= adverts(second))
    assert await second.speak_for_cluster("ayni-test", 11435) == "ayni-test.local"


async def test_the_name_of_a_stranger_is_not_taken(pair: tuple[Discovery, Discovery]) -> None:
    first, second = pair
    await first.announce(advert(1, cluster=OFFICE))
    await first.speak_for_cluster("ayni-test", 11435)
    await second.announce(advert(2))
    with pytest.raises(NoMulticast, match=r"ayni-test\.local is already the name of 127\.0\.0\.11"):
        await second.speak_for_cluster("ayni-test", 11435)


async def test_a_machine_whose_address_changes_is_seen_under_the_new_one() -> None:
    named = ["127.0.0.11"]
    async with (
        open_discovery(lambda: interfaces_in_use(tuple(named))) as mover,
        open_discovery(on("127.0.0.12")) as second,
    ):
        await mover.announce(advert(1))
        await mover.speak_for_cluster("ayni-test", 11435)
        await until(lambda: advert(1) in adverts(second))
        assert not await mover.follow_interfaces()
        named[:] = ["127.0.0.13"]
        assert await mover.follow_interfaces()
        assert mover.addresses == ("127.0.0.13",)
        await until(lambda: any("127.0.0.13" in seen.addresses for seen in second.sightings))


async def test_a_machine_without_a_cluster_looks_around_silently() -> None:
    async with open_discovery(on("127.0.0.11")) as member:
        await member.announce(advert(1))
        seen = await look_around(on("127.0.0.12"), listen_s=0.8)
        assert advert(1) in {sighting.advert for sighting in seen}
        assert len(member.sightings) == len(seen)


async def test_without_a_network_discovery_says_so() -> None:
    with pytest.raises(NoMulticast, match="no network interface that may be used is up"):
        await look_around(lambda: choose_interfaces(()))


async def test_closing_twice_is_harmless() -> None:
    discovery = Discovery(on("127.0.0.11"))
    await discovery.start()
    await discovery.close()
    await discovery.close()
    with pytest.raises(NoMulticast):
        await discovery.announce(advert(1))
