from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.engine.scheduler import MIN_CHUNK_TOKENS, STALL_TARGET_S, Need, Pace, Share, plan_step

all_needs = st.lists(st.integers(0, 2000), max_size=12).map(
    lambda lengths: [Need(slot, arrival=slot, prompt_tokens=n) for slot, n in enumerate(lengths)]
)


def test_nothing_to_do_gives_an_empty_step() -> None:
    assert plan_step([], batch_tokens=512, chunk_tokens=64) == ()


def test_alone_a_prompt_takes_the_whole_batch() -> None:
    assert plan_step([Need(0, 1, 2000)], batch_tokens=512, chunk_tokens=64) == (Share(0, 512, prompt=True),)


def test_running_streams_go_first_and_prompts_get_a_chunk() -> None:
    needs = [Need(0, 1, 300), Need(1, 2, 0), Need(2, 3, 0)]
    assert plan_step(needs, batch_tokens=512, chunk_tokens=64) == (
        Share(1, 1, prompt=False),
        Share(2, 1, prompt=False),
        Share(0, 64, prompt=True),
    )


def test_prompts_are_read_in_order_of_arrival() -> None:
    needs = [Need(0, 9, 300), Need(1, 4, 400), Need(2, 5, 300)]
    assert plan_step(needs, batch_tokens=512, chunk_tokens=64) == (
        Share(1, 400, prompt=True),
        Share(2, 112, prompt=True),
    )


@given(all_needs, st.integers(16, 600), st.integers(1, 600))
def test_a_step_fits_the_batch_and_forgets_no_stream(needs: list[Need], batch: int, chunk: int) -> None:
    shares = plan_step(needs, batch_tokens=batch, chunk_tokens=chunk)
    wanted = {n.slot: n for n in needs}
    assert sum(s.tokens for s in shares) <= batch
    assert len({s.slot for s in shares}) == len(shares)
    assert {s.slot for s in shares if not s.prompt} == {n.slot for n in needs if n.prompt_tokens == 0}
    assert all(0 < s.tokens <= max(1, wanted[s.slot].prompt_tokens) for s in shares)
    if any(n.prompt_tokens == 0 for n in needs):
        assert sum(s.tokens for s in shares if s.prompt) <= chunk
    assert bool(shares) == bool(needs)


@given(all_needs, st.integers(16, 600))
def test_a_later_prompt_never_overtakes(needs: list[Need], batch: int) -> None:
    shares = [s for s in plan_step(needs, batch_tokens=batch, chunk_tokens=64) if s.prompt]
    prompts = [n for n in needs if n.prompt_tokens]
    assert [s.slot for s in shares] == [n.slot for n in prompts[: len(shares)]]
    assert all(s.tokens == n.prompt_tokens for s, n in zip(shares[:-1], prompts, strict=False))


def test_the_chunk_follows_the_measured_speed() -> None:
    pace = Pace(512)
    for _ in range(30):
        pace.observe(streams=0, prompt_tokens=512, seconds=512 / 1000)
    assert 0 <= STALL_TARGET_S * 1000 - pace.chunk_tokens < 32
    for _ in range(30):
        pace.observe(streams=0, prompt_tokens=512, seconds=512 / 10)
    assert pace.chunk_tokens == MIN_CHUNK_TOKENS
    for _ in range(60):
        pace.observe(streams=0, prompt_tokens=512, seconds=512 / 1_000_000)
    assert pace.chunk_tokens == 512


def test_the_streams_own_time_is_not_blamed_on_the_prompt() -> None:
    pace = Pace(4096)
    for _ in range(40):
        pace.observe(streams=4, prompt_tokens=0, seconds=0.1)
    for _ in range(40):
        pace.observe(streams=4, prompt_tokens=100, seconds=0.2)
    assert abs(pace.chunk_tokens - STALL_TARGET_S * 1000) <= 32
    assert abs(pace.step_s(100) - 0.2) < 0.01
