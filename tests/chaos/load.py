"""Steady load by the clients that people use: one question after the other, each answer compared with the first one.

A client whose own node was killed asks another one, as the guide says. Every other answer has to be there, whole.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import httpx
import ollama
import openai

from tests.chaos.machines import Machine

Api: TypeAlias = Literal["ollama chat", "ollama generate", "openai chat"]

LIMIT_S = 90.0
# For as long a client tries other nodes before it says that there is none.
PATIENCE_S = 60.0
PAUSE_S = 0.1
MOST_REQUESTS = 5000
CLIENT_ERRORS = (ollama.ResponseError, openai.OpenAIError, httpx.HTTPError, ConnectionError, json.JSONDecodeError)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how."""

    api: Api
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: the text, why it ended ("": it did not), and how many tokens the node counted."""

    text: str
    reason: str
    tokens: int


QUESTIONS = tuple(
    Question(api, text, tokens)
    for api in ("ollama chat", "ollama generate", "openai chat")
    for text, tokens in (
        ("Count from 1 to 100.", 400),
        ("Count from 3 to 40.", 150),
        ("Write a long text about Ayni", 300),
        ("Tell me a story", 200),
        ("What happens when a machine is lost?", 60),
    )
)
# One for each of the APIs.
SOME_QUESTIONS = QUESTIONS[::5]


class Clients:
    """The clients of one machine, with connections that are kept as in a program that runs for long."""

    def __init__(self, url: str) -> None:
        self._ollama = ollama.Client(host=url, timeout=LIMIT_S)
        self._openai = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=LIMIT_S)

    def ask(self, question: Question) -> Answer:
        """Stream one answer to its end. Raises CLIENT_ERRORS."""
        match question.api:
            case "ollama chat":
                return self._chat(question)
            case "ollama generate":
                return self._generate(question)
            case "openai chat":
                return self._completion(question)

    def close(self) -> None:
        self._ollama._client.close()
        self._openai.close()

    def _chat(self, question: Question) -> Answer:
        text, reason, tokens = "", "", 0
        options = {"temperature": 0, "num_predict": question.tokens}
        messages = [{"role": "user", "content": question.text}]
        for part in self._ollama.chat("demo", messages=messages, stream=True, think=False, options=options):
            text += part.message.content or ""
            if part.done:
                reason, tokens = part.done_reason or "", part.eval_count or 0
        return Answer(text, reason, tokens)

    def _generate(self, question: Question) -> Answer:
        text, reason, tokens = "", "", 0
        options = {"temperature": 0, "num_predict": question.tokens}
        for part in self._ollama.generate("demo", question.text, stream=True, think=False, options=options):
            text += part.response or ""
            if part.done:
                reason, tokens = part.done_reason or "", part.eval_count or 0
        return Answer(text, reason, tokens)

    def _completion(self, question: Question) -> Answer:
        text, reason, tokens = "", "", 0
        stream = self._openai.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": question.text}],
            max_tokens=question.tokens,
            temperature=0,
            reasoning_effort="none",
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
        return Answer(text, reason, tokens)


@dataclass(slots=True)
class Tally:
    """How the requests went. `wrong`: in words, what should not have happened."""

    requests: int = 0
    identical: int = 0
    asked_again: int = 0
    longest_s: float = 0.0
    by_api: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Load:
    """Clients of every machine, each in a thread of its own, from `start` to `stop`."""

    def __init__(self, machines: Sequence[Machine], expected: dict[Question, Answer], *, seed: int) -> None:
        self.tally = Tally()
        self._machines, self._expected = machines, expected
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(home, f"{seed} {home} {number}"), daemon=True)
            for home in range(len(machines))
            for number in range(2)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask nothing more, and wait for the answers that are under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(LIMIT_S + PATIENCE_S)
            if thread.is_alive():
                self.tally.wrong.append("a client still waits for its answer")

    def _work(self, home: int, seed: str) -> None:
        chance = random.Random(seed)
        clients = [Clients(machine.node.url) for machine in self._machines]
        while not self._stopping.wait(chance.uniform(0, 2 * PAUSE_S)) and self.tally.requests < MOST_REQUESTS:
            question = chance.choice(QUESTIONS)
            began_s = time.monotonic()
            try:
                wrong = self._ask(clients, home, question)
            except Exception as error:
                wrong = f"{question} at {self._machines[home].name}: {error!r}"
            self._note(question, wrong, time.monotonic() - began_s)
        for each in clients:
            each.close()

    def _ask(self, clients: Sequence[Clients], home: int, question: Question) -> str:
        """Ask, elsewhere too if the node that was asked has died; what was wrong, "" if nothing was."""
        place, deadline_s = home, time.monotonic() + PATIENCE_S
        while True:
            machine, began_s = self._machines[place], time.monotonic()
            try:
                with machine.inside():
                    answer = clients[place].ask(question)
                complaint = "" if answer == self._expected[question] else _difference(answer, self._expected[question])
            except CLIENT_ERRORS as error:
                complaint = f"{type(error).__name__}: {error}"
            if not complaint:
                return ""
            ended_s = time.monotonic()
            whole = f"{question.api} at {machine.name} {question.text!r} after {ended_s - began_s:.2f} s: {complaint}"
            if not machine.was_down(began_s, ended_s) or complaint.startswith("another text"):
                return whole
            if ended_s > deadline_s:
                return f"{whole}; and no other node answered"
            with self._lock:
                self.tally.asked_again += 1
            place = (place + 1) % len(self._machines)
            time.sleep(PAUSE_S)

    def _note(self, question: Question, wrong: str, took_s: float) -> None:
        with self._lock:
            self.tally.requests += 1
            self.tally.by_api[question.api] += 1
            self.tally.longest_s = max(self.tally.longest_s, took_s)
            if wrong:
                self.tally.wrong.append(wrong)
            else:
                self.tally.identical += 1


def answers_of(machine: Machine, questions: Sequence[Question] = SOME_QUESTIONS) -> dict[Question, Answer]:
    """What a machine answers when all is well. Raises AssertionError: it does not finish an answer."""
    clients = Clients(machine.node.url)
    found = {}
    for question in questions:
        with machine.inside():
            answer = found[question] = clients.ask(question)
        assert answer.reason, f"{machine.name} did not finish {question}: {answer}"
    clients.close()
    return found


def _difference(answer: Answer, expected: Answer) -> str:
    if not expected.text.startswith(answer.text):
        at = (
            next(n for n, (a, b) in enumerate(zip(answer.text, expected.text, strict=False)) if a != b)
            if (not answer.text.startswith(expected.text))
            else len(expected.text)
        )
        return f"another text from character {at} on: {answer.text[max(0, at - 40) : at + 40]!r}"
    if not answer.reason:
        return f"it ended after {len(answer.text)} of {len(expected.text)} characters without a word"
    return f"{answer} instead of {expected}"
