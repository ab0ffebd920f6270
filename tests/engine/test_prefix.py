from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.engine.prefix import MIN_COPY_TOKENS, Held, Placement, common_prefix, place

few = st.lists(st.integers(0, 2), max_size=200)


def held(slot: int, tokens: list[int], *, busy: bool = False, last_used: int = 0) -> Held:
    return Held(slot, tokens, busy, last_used)


@given(few, few)
def test_common_prefix_is_what_a_loop_finds(a: list[int], b: list[int]) -> None:
    expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common_prefix(a, b) == expected
    assert common_prefix([*a, 7], [*a, 8]) == len(a)


def test_without_an_idle_sequence_a_prompt_waits() -> None:
    assert place([1, 2], [held(0, [1], busy=True)], can_rewind=True) is None


def test_a_conversation_goes_on_where_it_was() -> None:
    turn = list(range(100))
    slots = [held(0, [9] * 50, last_used=5), held(1, turn, last_used=6), held(2, [])]
    assert place([*turn, 200, 201], slots, can_rewind=True) == Placement(1, 100)


def test_the_last_token_is_always_evaluated_again() -> None:
    assert place([1, 2, 3], [held(0, [1, 2, 3, 4])], can_rewind=True) == Placement(0, 2)


def test_a_shared_system_prompt_does_not_cost_another_conversation_its_memory() -> None:
    system = list(range(MIN_COPY_TOKENS))
    conversation = [*system, *range(1000, 2000)]
    slots = [held(0, conversation, last_used=9), held(1, [])]
    assert place([*system, 7, 8, 9], slots, can_rewind=True) == Placement(1, len(system), source=0)


def test_a_short_shared_beginning_is_not_worth_a_copy() -> None:
    slots = [held(0, [1, 2, *range(50, 80)], last_used=9), held(1, [])]
    assert place([1, 2, 3], slots, can_rewind=True) == Placement(1, 0)


def test_a_busy_sequence_is_copied_not_taken() -> None:
    prompt = list(range(300))
    slots = [held(0, prompt, busy=True), held(1, [5, 5], last_used=1), held(2, [6], last_used=2)]
    assert place(prompt, slots, can_rewind=True) == Placement(1, 299, source=0)


def test_an_empty_sequence_is_taken_before_the_oldest() -> None:
    slots = [held(0, [5, 5], last_used=1), held(1, [], last_used=7), held(2, [6, 6], last_used=2)]
    assert place([1, 2], slots, can_rewind=True) == Placement(1, 0)
    assert place([1, 2], [slots[0], slots[2]], can_rewind=True) == Placement(0, 0)


def test_a_long_conversation_outlives_a_short_one() -> None:
    slots = [held(0, [5] * 4000, last_used=1), held(1, [6] * 30, last_used=2)]
    assert place([1, 2], slots, can_rewind=True) == Placement(1, 0)


def test_busy_sequences_stay_neighbours_unless_that_costs_more() -> None:
    slots = [held(0, [5] * 50, last_used=1), held(1, []), held(2, [6] * 50, last_used=9), held(3, [7], busy=True)]
    assert place([1, 2], slots, can_rewind=True) == Placement(2, 0)
    slots[2] = held(2, [6] * 1000, last_used=9)
    assert place([1, 2], slots, can_rewind=True) == Placement(1, 0)


def test_memory_that_cannot_go_back_is_reused_whole_or_not_at_all() -> None:
    slots = [held(0, [1, 2, 3], last_used=3), held(1, [1, 2], last_used=4), held(2, [1, 9], last_used=5)]
    assert place([1, 2, 3, 4], slots, can_rewind=False) == Placement(0, 3)
    assert place([1, 2, 3], slots, can_rewind=False) == Placement(1, 2)
    assert place([1, 7], slots, can_rewind=False) == Placement(0, 0)


@given(
    few.filter(bool), st.lists(st.tuples(few, st.booleans(), st.integers(0, 9)), min_size=1, max_size=5), st.booleans()
)
def test_what_is_kept_is_really_shared(
    prompt: list[int], memories: list[tuple[list[int], bool, int]], can_rewind: bool
) -> None:
    slots = [held(i, tokens, busy=busy, last_used=used) for i, (tokens, busy, used) in enumerate(memories)]
    placement = place(prompt, slots, can_rewind=can_rewind)
    if placement is None:
        assert all(s.busy for s in slots)
        return
    source = slots[placement.slot if placement.source is None else placement.source]
    assert not slots[placement.slot].busy
    assert placement.keep < len(prompt)
    assert list(source.tokens[: placement.keep]) == prompt[: placement.keep]
    if can_rewind:
        best_idle = max(common_prefix(s.tokens, prompt) for s in slots if not s.busy)
        assert placement.keep >= min(best_idle, len(prompt) - 1) - MIN_COPY_TOKENS
