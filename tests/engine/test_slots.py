from __future__ import annotations

from typing import cast

from node.engine.generation import Generation
from node.engine.scheduler import Need
from node.engine.slots import Slot, best_source, needs, ready_prompts

SYSTEM = list(range(200))
JOB = cast("Generation", object())


def reading(index: int, pending: list[int], *, tokens: list[int] | None = None, arrival: int = 0) -> Slot:
    done = tokens or []
    return Slot(index, done, len(done), pending, prefilling=True, generation=JOB, arrival=arrival)


def test_streams_want_one_token_and_prompts_all_of_theirs() -> None:
    stream = Slot(0, [1, 2], 2, [3], generation=JOB, arrival=5)
    assert needs([stream, reading(1, [4, 5], arrival=6), Slot(2)]) == [Need(0, 5, 0), Need(1, 6, 2)]


def test_a_prompt_waits_for_an_earlier_one_that_begins_like_it() -> None:
    first = reading(0, [*SYSTEM, 7], arrival=1)
    second = reading(1, [*SYSTEM, 8], arrival=2)
    other = reading(2, [9, 9, 9], arrival=3)
    assert ready_prompts([first, second, other]) == [first, other]
    first.evaluated(201)
    assert ready_prompts([first, second, other]) == [first, second, other]
    assert best_source(second, [first, second, other]) == (first, 200)


def test_a_short_common_beginning_is_read_again() -> None:
    first, second = reading(0, [1, 2, 3, 4], arrival=1), reading(1, [1, 2, 3, 5], arrival=2)
    assert ready_prompts([first, second]) == [first, second]
    first.evaluated(4)
    assert best_source(second, [first, second]) is None


def test_only_what_a_fresh_evaluation_would_give_is_reused() -> None:
    slot = Slot(0, list(range(100)), 100)
    slot.exact = 10  # a shift happened after the tenth token
    assert slot.reusable == list(range(10))
    slot.pending = [5, 6]
    slot.evaluated(1)
    assert (slot.exact, slot.pending, len(slot.tokens)) == (10, [6], 101)
    slot.keep(8)
    assert (slot.tokens, slot.exact) == (list(range(8)), 8)
