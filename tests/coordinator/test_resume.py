from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.resume import Stream
from node.jobs import Delta, Done, Event, Job, Raw, Sampling, Usage


def job(**fields: object) -> Job:
    return Job(**{"id": "j", "prompt": Raw(prompt="hello"), "max_tokens": 100} | fields)  # type: ignore[arg-type]


def stream(**fields: object) -> Stream:
    return Stream(job(**fields), now_s=0.0, seed=7)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def runner(asked: Job, answer: str, tail: str) -> list[Event]:
    """What a runner sends for this job: a token for each letter that was not delivered, held-back text, the end."""
    deltas: list[Event] = [
        Delta(job=asked.id, text=letter, tokens=(ord(letter),)) for letter in answer[len(asked.resume) :]
    ]
    last = [Delta(job=asked.id, text=tail)] if tail else []
    usage = Usage(prompt_tokens=5, output_tokens=len(answer))
    return [*deltas, *last, Done(job=asked.id, reason="stop", usage=usage)]


def test_an_undisturbed_stream_passes_through_unchanged() -> None:
    it = stream()
    attempt = it.begin()
    events = runner(attempt.job, "abc", "")
    assert [e for event in events for e in it.take(attempt.number, event, 1.0)] == events
    assert it.resumed == 0


def test_the_next_machine_is_forced_through_what_was_delivered() -> None:
    it = stream(resume=(1, 2))
    first = it.begin()
    assert first.job.resume == (1, 2)
    it.take(first.number, Delta(job="j", text="x", tokens=(3, 4)), 1.0)
    second = it.begin()
    assert (second.job.resume, second.job.max_tokens, second.job.id) == ((1, 2, 3, 4), 100, "j.2")
    assert (it.resumed, it.delivered_tokens) == (1, (1, 2, 3, 4))


def test_all_attempts_draw_with_the_same_seed() -> None:
    assert stream().begin().job.sampling.seed == 7
    assert stream(sampling=Sampling(seed=42)).begin().job.sampling.seed == 42


def test_what_a_machine_given_up_still_sends_is_ignored() -> None:
    it = stream()
    first, second = it.begin(), it.begin()
    assert it.take(first.number, Delta(job="j", text="late", tokens=(1,)), 1.0) == ()
    assert it.delivered_tokens == ()
    passed = it.take(second.number, Delta(job=second.job.id, text="new", tokens=(2,)), 1.0)
    assert passed == (Delta(job="j", text="new", tokens=(2,)),)


def test_held_back_text_is_not_sent_twice_when_the_end_is_lost() -> None:
    it = stream()
    first = it.begin()
    assert it.take(first.number, Delta(job="j", text="<tool"), 1.0) == ()
    second = it.begin()
    passed = [e for event in runner(second.job, "", "<tool") for e in it.take(second.number, event, 2.0)]
    assert text_of(passed) == "<tool"


def test_an_attempt_is_fruitful_once_it_has_delivered_something() -> None:
    it = stream()
    first = it.begin()
    it.take(first.number, Delta(job="j", text="held back"), 1.0)
    assert not it.is_fruitful
    it.take(first.number, Delta(job="j", text="x", tokens=(1,)), 1.0)
    assert it.is_fruitful
    it.begin()
    assert not it.is_fruitful


def test_the_times_of_a_resumed_stream_are_the_clients() -> None:
    it = stream()
    first = it.begin()
    it.take(first.number, Delta(job="j", text="a", tokens=(97,)), 2.0)
    second = it.begin()
    done = it.take(second.number, Done(job="j.2", reason="stop", usage=Usage(prompt_tokens=5, output_tokens=1)), 6.0)
    assert done == (
        Done(
            job="j",
            reason="stop",
            usage=Usage(prompt_tokens=5, output_tokens=1, prompt_ns=2_000_000_000, output_ns=4_000_000_000),
        ),
    )


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="abcdef", max_size=30),
    st.sampled_from(["", "<t", "end"]),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=10),
)
def test_however_often_it_breaks_the_client_gets_every_token_once(
    answer: str, tail: str, breaks: list[tuple[int, int]]
) -> None:
    it, got = stream(), []
    stale: list[tuple[int, Event]] = []
    for after, late in [*breaks, (10**6, 0)]:
        attempt = it.begin()
        events = runner(attempt.job, answer, tail)
        for number, event in stale:
            assert it.take(number, event, 1.0) == ()
        for event in events[:after]:
            got += it.take(attempt.number, event, 1.0)
        if got and isinstance(got[-1], Done):
            break
        stale = [(attempt.number, event) for event in events[after : after + late]]
    whole = answer + tail
    if got and isinstance(got[-1], Done):
        assert text_of(got) == whole
        assert all(event.job == "j" for event in got)
    else:
        assert answer.startswith(text_of(got))
    assert list(it.delivered_tokens) == [ord(letter) for letter in answer[: len(it.delivered_tokens)]]
