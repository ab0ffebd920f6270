from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.engine.scheduler import MIN_CHUNK_TOKENS, STALL_TARGET_S, Need, Pace, Share, Turn, plan_step

all_needs = st.lists(st.integers(0, 2000), max_size=12).map(
    lambda lengths: [Need(slot, arrival=slot, prompt_tokens=n) for slot, n in enumerate(lengths)]
)


def test_nothing_to_do_gives_an_empty_step() -> None:
    assert plan_step([], batch_tokens=512, turn=Turn(64, 512)) == ()


def test_alone_a_prompt_takes_the_whole_batch() -> None:
    assert plan_step([Need(0, 1, 2000)], batch_tokens=512, turn=Turn(64, 512)) == (Share(0, 512, prompt=True),)


def test_running_streams_go_first_and_prompts_get_a_chunk() -> None:
    needs = [Need(0, 1, 300), Need(1, 2, 0), Need(2, 3, 0)]
    assert plan_step(needs, batch_tokens=512, turn=Turn(64, 512)) == (
        Share(1, 1, prompt=False),
        Share(2, 1, prompt=False),
        Share(0, 64, prompt=True),
    )


def test_prompts_are_read_in_order_of_arrival() -> None:
    needs = [Need(0, 9, 300), Need(1, 4, 400), Need(2, 5, 300)]
    assert plan_step(needs, batch_tokens=512, turn=Turn(64, 512)) == (
        Share(1, 400, prompt=True),
        Share(2, 112, prompt=True),
    )


def test_beside_streams_a_step_begins_no_second_prompt_that_it_can_not_finish() -> None:
    needs = [Need(0, 1, 0), Need(1, 2, 50), Need(2, 3, 40), Need(3, 4, 40)]
    assert plan_step(needs, batch_tokens=512, turn=Turn(100, 512)) == (
        Share(0, 1, prompt=False),
        Share(1, 50, prompt=True),
        Share(2, 40, prompt=True),
    )


def test_a_prompt_that_is_enough_for_a_step_is_read_alone() -> None:
    needs = [Need(0, 1, 50), Need(1, 2, 20), Need(2, 3, 40)]
    assert plan_step(needs, batch_tokens=512, turn=Turn(64, enough_tokens=60)) == (
        Share(0, 50, prompt=True),
        Share(1, 20, prompt=True),
    )


def test_a_fast_machine_reads_more_at_once() -> None:
    slow, fast = (measured(token_s=s).turn(first_prompt_tokens=10, waited_s=0.0) for s in (0.002, 0.0001))
    assert slow.enough_tokens == MIN_CHUNK_TOKENS
    assert 250 < fast.enough_tokens < 350


def test_streams_sit_out_a_step_only_for_prompts() -> None:
    turn = Turn(100, 512, streams_wait=True)
    assert plan_step([Need(0, 1, 0), Need(1, 2, 50)], batch_tokens=512, turn=turn) == (Share(1, 50, prompt=True),)
    assert plan_step([Need(0, 1, 0)], batch_tokens=512, turn=turn) == (Share(0, 1, prompt=False),)


@given(all_needs, st.integers(16, 600), st.integers(1, 600), st.integers(1, 600), st.booleans())
def test_a_step_fits_the_batch_and_forgets_no_stream(
    needs: list[Need], batch: int, chunk: int, enough: int, wait: bool
) -> None:
    shares = plan_step(needs, batch_tokens=batch, turn=Turn(chunk, enough, streams_wait=wait))
    wanted = {n.slot: n for n in needs}
    streams = {n.slot for n in needs if n.prompt_tokens == 0}
    assert sum(s.tokens for s in shares) <= batch
    assert len({s.slot for s in shares}) == len(shares)
    served = {s.slot for s in shares if not s.prompt}
    assert served == streams or (wait and not served and len(streams) < len(needs))
    assert all(0 < s.tokens <= max(1, wanted[s.slot].prompt_tokens) for s in shares)
    if streams:
        assert sum(s.tokens for s in shares if s.prompt) <= chunk
    assert bool(shares) == bool(needs)


@given(all_needs, st.integers(16, 600))
def test_a_later_prompt_never_overtakes(needs: list[Need], batch: int) -> None:
    shares = [s for s in plan_step(needs, batch_tokens=batch, turn=Turn(64, 512)) if s.prompt]
    prompts = [n for n in needs if n.prompt_tokens]
    assert [s.slot for s in shares] == [n.slot for n in prompts[: len(shares)]]
    assert all(s.tokens == n.prompt_tokens for s, n in zip(shares[:-1], prompts, strict=False))


def measured(*, token_s: float, stream_step_s: float = 0.0) -> Pace:
    pace = Pace(512)
    for _ in range(60):
        if stream_step_s:
            pace.observe(streams=1, prompt_tokens=0, seconds=stream_step_s)
        pace.observe(streams=1, prompt_tokens=100, seconds=100 * token_s + stream_step_s)
    return pace


def test_the_chunk_is_what_fits_the_time_that_a_stream_may_wait() -> None:
    turn = measured(token_s=0.001).turn(first_prompt_tokens=5000, waited_s=0.0)
    assert abs(turn.chunk_tokens - STALL_TARGET_S / 0.001) <= 1
    assert not turn.streams_wait
    turn = measured(token_s=0.001, stream_step_s=0.1).turn(first_prompt_tokens=5000, waited_s=0.1)
    assert abs(turn.chunk_tokens - (STALL_TARGET_S - 0.2) / 0.001) <= 1
    assert measured(token_s=1.0).turn(first_prompt_tokens=5000, waited_s=0.0) == Turn(
        MIN_CHUNK_TOKENS, MIN_CHUNK_TOKENS
    )
    assert measured(token_s=0.001).turn(first_prompt_tokens=5000, waited_s=60.0) == Turn(
        MIN_CHUNK_TOKENS, MIN_CHUNK_TOKENS
    )


def test_a_prompt_that_nearly_fits_is_read_to_its_end() -> None:
    turn = measured(token_s=0.001).turn(first_prompt_tokens=450, waited_s=0.0)
    assert turn == Turn(450, MIN_CHUNK_TOKENS)


def test_streams_let_a_short_prompt_go_first_while_they_have_time() -> None:
    pace = measured(token_s=0.001, stream_step_s=0.02)
    assert pace.turn(first_prompt_tokens=100, waited_s=0.0).streams_wait
    assert not pace.turn(first_prompt_tokens=100, waited_s=STALL_TARGET_S - 0.1).streams_wait
    assert not pace.turn(first_prompt_tokens=1000, waited_s=0.0).streams_wait


def test_a_machine_not_measured_yet_begins_carefully() -> None:
    assert Pace(512).turn(first_prompt_tokens=5000, waited_s=0.0) == Turn(2 * MIN_CHUNK_TOKENS, MIN_CHUNK_TOKENS)
    assert Pace(512).step_s(1000) == 0.0


def test_the_streams_own_time_is_not_blamed_on_the_prompt() -> None:
    assert abs(measured(token_s=0.001, stream_step_s=0.1).step_s(100) - 0.2) < 0.01
