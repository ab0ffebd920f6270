from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from node.engine.binding import DECODE_ABORTED, Batch
from node.fingerprint import fingerprint
from node.jobs import Delta, Done, Raw, Sampling
from tests.engine.conftest import GREEDY, Driver, Result

Start = Callable[..., Driver]
LONG = "the quick brown fox jumps over the lazy dog and "
JSON_GRAMMAR = r"""
root ::= object
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ( string ":" value ( "," string ":" value )? )? "}"
array ::= "[" ( value ( "," value )? )? "]"
string ::= "\"" [a-z]{0,4} "\""
number ::= [0-9]{1,3}
"""


def never_ending(driver: Driver) -> Sampling:
    ends = [t for t in range(driver.vocab.size) if driver.vocab.is_end(t)]
    return Sampling(temperature=0.0, logit_bias=dict.fromkeys(ends, -1e9))


def test_streams_that_run_together_say_what_each_says_alone(start: Start) -> None:
    driver = start(parallel=8)
    prompts = [f"{i} {LONG * (i % 3 + 1)}" for i in range(8)]
    alone = [driver.run(p, max_tokens=24).tokens for p in prompts]
    other = start(parallel=8)
    for i, prompt in enumerate(prompts):
        other.submit(f"j{i}", prompt, max_tokens=24)
    together = [Result(events).tokens for events in other.wait(*(f"j{i}" for i in range(8)))]
    assert together == alone
    assert all(len(tokens) == 24 for tokens in alone)


def test_more_jobs_than_slots_are_served_in_order(start: Start) -> None:
    driver = start(parallel=2)
    jobs = [f"j{i}" for i in range(7)]
    for job in jobs:
        driver.submit(job, LONG + job, max_tokens=5)
    results = driver.wait(*jobs)
    assert all(isinstance(r[-1], Done) for r in results)
    ends = [e.job for step in driver.steps for e in step if isinstance(e, Done)]
    assert ends == sorted(ends)


def test_the_end_tells_what_was_counted(start: Start) -> None:
    driver = start()
    result = driver.run(LONG, max_tokens=7)
    usage = result.done.usage
    assert result.done.reason == "length"
    assert (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens) == (len(driver.tokens(LONG)), 0, 7)
    assert usage.prompt_ns > 0
    assert usage.output_ns > 0
    assert result.done.context == (*driver.tokens(LONG), *result.tokens)
    assert driver.run(LONG, max_tokens=0).done.usage.output_tokens == 0


def test_a_prompt_reuses_what_is_cached_and_says_the_same(start: Start) -> None:
    driver = start(context_tokens=1024)
    first = driver.run(LONG * 3, max_tokens=12)
    history = [*first.done.context, *driver.tokens("and then")]
    second = driver.run(history, max_tokens=12)
    assert second.done.usage.cached_tokens >= len(first.done.context) - 1
    assert second.tokens == start(context_tokens=1024).run(history, max_tokens=12).tokens


def test_the_engine_tells_what_it_has_cached_and_what_it_still_has_to_read(start: Start) -> None:
    driver = start(context_tokens=1024, parallel=1, batch_tokens=64)
    texts = [f"{number} {LONG * 6}" for number in (1, 2)]
    marks = [fingerprint(Raw(prompt=text)) for text in texts]
    for text, of_text in zip(texts, marks, strict=True):
        driver.run(text, marks=of_text)
        held = [standing.prefixes for standing in driver.standings if standing.prefixes is not None]
        assert held[-1] == frozenset(of_text.hashes)  # and of what stood in the only sequence before, nothing
    backlogs = [standing.backlog_tokens for standing in driver.standings]
    assert max(backlogs) > 64
    assert backlogs[-1] == 0


def test_jobs_that_begin_alike_read_the_beginning_once(start: Start) -> None:
    driver = start(context_tokens=1024, batch_tokens=64)
    system = LONG * 6
    shared = len(driver.tokens(system))
    for i in range(4):
        driver.submit(f"j{i}", f"{system}{i}", max_tokens=8)
    results = [Result(events) for events in driver.wait("j0", "j1", "j2", "j3")]
    assert results[0].done.usage.cached_tokens == 0
    assert all(r.done.usage.cached_tokens >= shared - 4 for r in results[1:])
    fresh = start(context_tokens=1024)
    assert [r.tokens for r in results] == [fresh.run(f"{system}{i}", max_tokens=8).tokens for i in range(4)]


def test_a_cancelled_job_is_heard_of_no_more_and_frees_its_slot(start: Start) -> None:
    driver = start(parallel=1, context_tokens=4096)
    driver.submit("endless", LONG, max_tokens=None, sampling=never_ending(driver))
    while not isinstance(driver.next_event(), Delta):
        pass
    driver.submit("queued", LONG, max_tokens=4)
    driver.submit("next", LONG, max_tokens=4)
    driver.engine.cancel("queued")
    driver.engine.cancel("endless")
    driver.wait("next")
    assert not any(e.job == "queued" for step in driver.steps for e in step)
    assert not any(e.job == "endless" and isinstance(e, Done) for step in driver.steps for e in step)


def test_an_aborted_step_is_repeated_for_the_others(start: Start) -> None:
    driver = start()
    expected = driver.run(LONG, max_tokens=6).tokens
    context = start().context
    other = Driver(context)
    decode, left = context.decode, [3]

    def decode_with_aborts(batch: Batch) -> int:
        code = decode(batch)  # part of the batch, here all of it, stays in memory
        if left[0]:
            left[0] -= 1
            return DECODE_ABORTED
        return code

    context.decode = decode_with_aborts  # type: ignore[method-assign]
    try:
        assert other.run(LONG, max_tokens=6).tokens == expected
        assert left == [0]
    finally:
        other.close()


def test_abort_stops_a_decode(start: Start) -> None:
    context = start().context
    batch = Batch(64)
    batch.add(0, [5] * 64, 0, output=True)
    context.abort()
    assert context.decode(batch) == DECODE_ABORTED
    assert context.truncate(0, 0)
    assert context.decode(batch) == 0


def test_a_failed_decode_fails_the_running_jobs_and_the_engine_goes_on(start: Start) -> None:
    driver = start(parallel=2)
    decode, codes = driver.context.decode, [-3]
    driver.context.decode = lambda batch: codes.pop() if codes else decode(batch)  # type: ignore[method-assign]
    result = driver.run(LONG)
    assert result.failed.kind == "internal"
    assert driver.run(LONG).done.usage.cached_tokens == 0


def test_memory_that_can_not_go_back_is_read_anew(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """As recurrent models' is; the tiny model only plays one."""
    driver = start(parallel=1)
    expected = driver.run(LONG + "b").tokens
    driver.context.clear()
    driver.context.model.remembers_only_forward = True
    context = driver.context
    recurrent = Driver(context)
    driver.context.model.remembers_only_forward = False
    truncate = context.truncate
    monkeypatch.setattr(context, "truncate", lambda s, p: p < 0 and truncate(s, p))
    try:
        first = recurrent.run(LONG)
        again = recurrent.run(LONG + "b")
        assert (again.tokens, again.done.usage.cached_tokens) == (expected, 0)
        more = recurrent.run([*again.done.context[:-1], 9, 9])
        assert more.done.usage.cached_tokens == len(again.done.context) - 1
        assert first.done.reason == "length"
    finally:
        recurrent.close()


def test_stop_strings_end_the_text_before_themselves(start: Start) -> None:
    driver = start()
    free = driver.run(LONG, max_tokens=60)
    stop = free.text[9:12]
    result = driver.run(LONG, max_tokens=60, stop=(stop,))
    assert result.done.reason == "stop"
    assert result.text == free.text[: free.text.index(stop)]
    assert result.tokens == free.tokens[: len(result.tokens)]


def test_an_end_token_ends_the_output_and_is_not_part_of_it(start: Start) -> None:
    driver = start()
    result = driver.run(LONG, sampling=Sampling(temperature=0.0, logit_bias={driver.vocab.eos: 1000.0}))
    assert (result.done.reason, result.tokens, result.text) == ("stop", [], "")
    assert result.done.usage.output_tokens == 1


def test_a_full_context_is_shifted_or_ends_the_job(start: Start) -> None:
    driver = start(context_tokens=256)
    endless = never_ending(driver)
    shifted = driver.run(LONG, max_tokens=700, sampling=endless)
    assert (shifted.done.reason, len(shifted.tokens)) == ("length", 700)
    stopped = driver.run(LONG, max_tokens=700, shift=False, sampling=endless)
    assert stopped.done.reason == "length"
    assert len(driver.tokens(LONG)) + len(stopped.tokens) == driver.context.context_tokens + 1
    assert stopped.tokens == shifted.tokens[: len(stopped.tokens)]


def test_what_was_computed_before_a_shift_is_not_taken_for_the_real_thing(start: Start) -> None:
    driver = start(context_tokens=256, parallel=1)
    driver.run(LONG, max_tokens=300, num_keep=8, sampling=never_ending(driver))
    shifted = list(driver.engine._slots[0].tokens)
    again = driver.run([*shifted[:200], 9], max_tokens=8)
    assert again.done.usage.cached_tokens == 8
    assert again.tokens == start(context_tokens=256).run([*shifted[:200], 9], max_tokens=8).tokens


def test_endless_output_has_an_end(start: Start) -> None:
    driver = start(context_tokens=256)
    result = driver.run("a", max_tokens=None, sampling=never_ending(driver))
    assert len(result.tokens) == 10 * driver.context.context_tokens


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(seed=5),
        Sampling(seed=5, temperature=1.5, top_k=0, top_p=1.0),
        Sampling(seed=5, repeat_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5),
        Sampling(seed=5, temperature=0.0, repeat_penalty=1.3, repeat_last_n=-1),
        Sampling(seed=5, temperature=1.5, top_k=100, typical_p=0.7, min_p=0.05),
        Sampling(seed=5, mirostat=1, temperature=1.2),
        Sampling(seed=5, mirostat=2, temperature=1.2),
    ],
    ids=["greedy", "default", "hot", "penalties", "greedy+penalties", "typical+min_p", "mirostat1", "mirostat2"],
)
@pytest.mark.parametrize("grammar", [None, JSON_GRAMMAR], ids=["free", "grammar"])
def test_resuming_gives_what_was_never_interrupted(start: Start, sampling: Sampling, grammar: str | None) -> None:
    driver = start()
    whole = driver.run(LONG, sampling=sampling, max_tokens=20, grammar=grammar)
    for cut in (1, len(whole.tokens) // 2, len(whole.tokens) - 1):
        other = start()
        rest = other.run(LONG, sampling=sampling, max_tokens=20, grammar=grammar, resume=tuple(whole.tokens[:cut]))
        assert rest.tokens == whole.tokens[cut:]
        assert rest.done.context == whole.done.context
        assert rest.done.reason == whole.done.reason
        assert rest.done.usage.output_tokens == whole.done.usage.output_tokens
        assert rest.done.usage.prompt_tokens == whole.done.usage.prompt_tokens


def test_resumed_text_goes_on_inside_a_character_and_a_stop_string(start: Start) -> None:
    driver = start()
    whole = driver.run(LONG, max_tokens=60)
    stop = (whole.text[20:26],)
    stopped = driver.run(LONG, max_tokens=60, stop=stop)
    for cut in range(1, len(stopped.tokens)):
        rest = driver.run(LONG, max_tokens=60, stop=stop, resume=tuple(stopped.tokens[:cut]))
        delivered = "".join(d.text for d in stopped.deltas[:cut])
        assert delivered + rest.text == stopped.text
        assert rest.done.reason == "stop"


def test_resuming_after_the_end_ends_at_once(start: Start) -> None:
    driver = start()
    whole = driver.run(LONG, max_tokens=6)
    rest = driver.run(LONG, max_tokens=6, resume=tuple(whole.tokens))
    assert (rest.done.reason, rest.tokens, rest.done.context) == ("length", [], whole.done.context)


def test_tokens_that_do_not_fit_the_format_can_not_be_resumed_after(start: Start) -> None:
    driver = start()
    assert driver.run(LONG, grammar=JSON_GRAMMAR, resume=(300, 301)).failed.kind == "bad_request"


def test_the_same_seed_says_the_same_and_no_seed_does_not(start: Start) -> None:
    driver = start()
    hot = Sampling(temperature=1.5, top_k=0, top_p=1.0)
    seeded = Sampling(temperature=1.5, top_k=0, top_p=1.0, seed=7)
    assert driver.run(LONG, sampling=seeded).tokens == driver.run(LONG, sampling=seeded).tokens
    assert driver.run(LONG, sampling=hot).tokens != driver.run(LONG, sampling=hot).tokens


@pytest.mark.parametrize("temperature", [0.0, 0.8, 3.0])
def test_output_with_a_grammar_always_parses(start: Start, temperature: float) -> None:
    driver = start()
    for seed in range(8):
        sampling = Sampling(temperature=temperature, seed=seed, top_k=5)
        result = driver.run(LONG, sampling=sampling, max_tokens=None, grammar=JSON_GRAMMAR)
        assert result.done.reason == "stop"
        assert isinstance(json.loads(result.text), dict)


def test_a_bad_grammar_fails_its_job_only(start: Start) -> None:
    driver = start()
    assert driver.run(LONG, grammar="root ::= (").failed.kind == "bad_request"
    assert driver.run(LONG).done.reason == "length"


@pytest.mark.parametrize(
    "option", [{"repeat_penalty": 0.0}, {"temperature": float("nan")}, {"logit_bias": {99999: 1.0}}]
)
def test_options_out_of_range_are_refused(start: Start, option: dict[str, object]) -> None:
    result = start().run(LONG, sampling=Sampling(**option))  # type: ignore[arg-type]
    assert result.failed.kind == "bad_request"
    assert next(iter(option)) in result.failed.message


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("flash", ["auto", "on"])
def test_every_cache_type_generates(start: Start, kv_type: str, flash: str) -> None:
    assert len(start(kv_type=kv_type, flash_attention=flash, context_tokens=256).run(LONG).tokens) == 16


def test_one_write_carries_what_all_streams_got_in_a_step(start: Start) -> None:
    driver = start(parallel=4)
    for i in range(4):
        driver.submit(f"j{i}", f"{i} {LONG}", max_tokens=400, sampling=never_ending(driver))
    driver.wait("j0", "j1", "j2", "j3")
    assert any(len({e.job for e in step}) == 4 for step in driver.steps)
    assert all(len([e for e in step if isinstance(e, Delta)]) <= 4 for step in driver.steps)


def test_sequences_stand_in_order_in_every_batch(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.engine.scheduler.STALL_TARGET_S", 0.0)  # streams share every step with prompts
    driver = start(parallel=4)
    decode, orders = driver.context.decode, list[list[int]]()

    def record(batch: Batch) -> int:
        orders.append(batch._sequence[: batch.count].tolist())
        return decode(batch)

    driver.context.decode = record  # type: ignore[method-assign]
    for i in range(8):  # while some run on, others end and new prompts take their places
        driver.submit(f"j{i}", f"{i} {LONG * (i % 2)}", max_tokens=10 + 40 * (i % 3), sampling=never_ending(driver))
    driver.wait(*(f"j{i}" for i in range(8)))
    assert all(order == sorted(order) for order in orders)
    assert any(len(order) > len(set(order)) > 1 for order in orders)
