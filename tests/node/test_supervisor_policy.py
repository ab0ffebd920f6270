from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.devices import Device, Machine, Ram
from node.supervisor import LoadOptions
from node.supervisor.policy import (
    Residency,
    can_serve,
    choose_eviction,
    fewer_layers,
    freed,
    most_models,
    retry_after_s,
)

MACHINE = Machine(ram=Ram(100, 10), gpus=(Device(name="GPU0", total_bytes=50, free_bytes=5),))


def resident(name: str, used: float, *, busy: bool = False, ram: int = 10, gpu: int = 0) -> Residency[str]:
    return Residency(name, used, busy, (("CPU", ram), ("GPU0", gpu)))


def ram_of(count: int):  # type: ignore[no-untyped-def]
    return lambda machine: machine.ram.free_bytes >= count


def test_nothing_goes_while_there_is_room() -> None:
    assert choose_eviction([resident("a", 1)], MACHINE, most=2, is_enough=ram_of(10)) == []


def test_the_least_recently_used_idle_model_goes_first() -> None:
    models = [resident("new", 3), resident("old", 1), resident("busy", 0, busy=True)]
    assert choose_eviction(models, MACHINE, most=9, is_enough=ram_of(20)) == ["old"]
    assert choose_eviction(models, MACHINE, most=9, is_enough=ram_of(30)) == ["old", "new"]


def test_a_model_in_use_never_goes_even_if_that_is_not_enough() -> None:
    models = [resident("busy", 0, busy=True), resident("idle", 1)]
    assert choose_eviction(models, MACHINE, most=1, is_enough=ram_of(99)) == ["idle"]


def test_a_small_model_stays_if_a_later_one_frees_enough_alone() -> None:
    models = [resident("small", 1, ram=1), resident("large", 2, ram=40)]
    assert choose_eviction(models, MACHINE, most=9, is_enough=ram_of(45)) == ["large"]


def test_too_many_models_are_evicted_down_to_one_below_the_limit() -> None:
    models = [resident(name, used) for used, name in enumerate("abc")]
    assert choose_eviction(models, MACHINE, most=2, is_enough=ram_of(0)) == ["a", "b"]


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 30)), max_size=8), st.integers(0, 120))
def test_what_goes_is_idle_and_no_more_than_is_needed(models: list[tuple[int, bool, int]], need: int) -> None:
    residencies = [Residency(index, used, busy, (("CPU", ram),)) for index, (used, busy, ram) in enumerate(models)]
    gone = choose_eviction(residencies, MACHINE, most=99, is_enough=ram_of(need))
    assert all(not residencies[index].busy for index in gone)
    everything = freed(MACHINE, [r for r in residencies if not r.busy])
    if everything.ram.free_bytes >= need:
        for left_out in gone:
            less = freed(MACHINE, [residencies[index] for index in gone if index != left_out])
            assert less.ram.free_bytes < need


def test_freed_memory_returns_to_its_device_and_an_apple_gpus_to_the_ram() -> None:
    after = freed(MACHINE, [resident("a", 1, ram=20, gpu=30)])
    assert (after.ram.free_bytes, after.gpus[0].free_bytes) == (30, 35)
    apple = Machine(ram=Ram(100, 10), gpus=(Device(name="Metal", total_bytes=90, free_bytes=5),))
    shared = freed(apple, [Residency("a", 1.0, False, (("CPU", 20), ("Metal", 30)))])
    assert (shared.ram.free_bytes, shared.gpus[0].free_bytes) == (60, 35)


@pytest.mark.parametrize(
    ("asked", "loaded", "serves"),
    [
        (LoadOptions(), LoadOptions(), True),
        (LoadOptions(num_ctx=2048), LoadOptions(), True),
        (LoadOptions(num_ctx=4097), LoadOptions(), False),
        (LoadOptions(num_ctx=99999), LoadOptions(num_ctx=99999), True),
        (LoadOptions(), LoadOptions(num_ctx=4096), True),
        (LoadOptions(parallel=2), LoadOptions(), True),
        (LoadOptions(parallel=3), LoadOptions(), False),
        (LoadOptions(num_gpu=0), LoadOptions(), False),
        (LoadOptions(), LoadOptions(num_gpu=0), True),
        (LoadOptions(num_thread=4), LoadOptions(num_thread=2), False),
        (LoadOptions(num_batch=64), LoadOptions(num_batch=32), True),
        (LoadOptions(use_mmap=False), LoadOptions(use_mmap=False), True),
    ],
)
def test_a_loaded_model_serves_what_asks_for_no_more(asked: LoadOptions, loaded: LoadOptions, serves: bool) -> None:
    got = can_serve(asked, loaded, context_tokens=4096, parallel=2, enough_tokens=4096, train_tokens=8192)
    assert got is serves


def test_a_small_context_somebody_asked_for_is_not_what_others_get_by_default() -> None:
    small = LoadOptions(num_ctx=512)
    sizes = {"context_tokens": 512, "parallel": 1, "enough_tokens": 4096, "train_tokens": 8192}
    assert not can_serve(LoadOptions(), small, **sizes)
    assert can_serve(LoadOptions(num_ctx=256), small, **sizes)


def test_nobody_waits_for_a_context_beyond_what_the_model_was_trained_for() -> None:
    asked = LoadOptions(num_ctx=100_000)
    assert can_serve(asked, LoadOptions(), context_tokens=8192, parallel=1, enough_tokens=1, train_tokens=8192)


def test_small_rules() -> None:
    assert [fewer_layers(layers) for layers in (9, 4, 1, 0)] == [4, 2, 0, None]
    assert [retry_after_s(mean, 2) for mean in (0.1, 7.0, 1e9)] == [1, 4, 60]
    assert most_models(None, MACHINE) == 3
    assert most_models(None, Machine(ram=Ram(1, 1), gpus=MACHINE.gpus * 2)) == 6
    assert most_models(5, MACHINE) == 5
