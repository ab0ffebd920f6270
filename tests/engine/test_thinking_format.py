"""A format binds the answer; what a model thinks before it is free."""

from __future__ import annotations

import json
from collections.abc import Callable

from node.jobs import Sampling
from node.prompt import OutputParser
from node.prompt.thinking import State, ThinkingSplitter, ThinkingTags
from tests.engine.conftest import Driver, Result

Start = Callable[..., Driver]
GRAMMAR = r'root ::= "{\"a\":" [0-9]{1,3} "}"'
TAGS = ThinkingTags("<think>", "</think>")


def parser(start: State) -> OutputParser:
    return OutputParser(ThinkingSplitter(TAGS, start=start), None, ("<think>", "</think>"))


def run(driver: Driver, start: State, resume: str = "") -> Result:
    tokens = tuple(driver.vocab.tokenize(resume, add_special=False, parse_special=False))
    ends = [t for t in range(driver.vocab.size) if driver.vocab.is_end(t)]
    return driver.run(
        "once upon",
        sampling=Sampling(seed=3, logit_bias=dict.fromkeys(ends, -50.0)),
        max_tokens=40,
        grammar=GRAMMAR,
        parser=parser(start),
        think_before_format=True,
        resume=tokens,
    )


def test_an_answer_at_once_has_the_format(start: Start) -> None:
    result = run(start(), "before")
    assert "a" in json.loads(result.text)
    assert result.done.reason == "stop"


def test_thoughts_are_free(start: Start) -> None:
    result = run(start(), "inside")
    assert result.text == ""
    assert "".join(d.thinking for d in result.deltas)
    assert result.done.reason == "length"


def test_the_answer_after_thoughts_has_the_format(start: Start) -> None:
    for resume in ("<think>so {what</think>", "<think>so {what</think>\n\n", '<think>x</think>{"a"'):
        result = run(start(), "before", resume)
        before = resume.partition("</think>")[2]
        assert "a" in json.loads(before + result.text)
        assert result.done.reason == "stop"


def test_a_tag_once_begun_is_finished(start: Start) -> None:
    driver = start()
    result = run(driver, "before", "<thi")
    written = b"".join(map(driver.vocab.piece, result.tokens)).decode(errors="replace")
    assert written.startswith("nk>") or "a" in json.loads("<thi" + written)


def test_a_model_that_stops_thinking_by_ending_still_answers(start: Start) -> None:
    driver = start()
    tokens = driver.vocab.tokenize("<think>hm", add_special=False, parse_special=False)
    result = driver.run(
        "once upon",
        sampling=Sampling(temperature=0.0, logit_bias={driver.vocab.eos: 1000.0}),
        max_tokens=40,
        grammar=GRAMMAR,
        parser=parser("before"),
        think_before_format=True,
        resume=tuple(tokens),
    )
    assert "a" in json.loads(result.text)
