"""Dialogues that exercise a skill: counting, sums, repeating, remembering, JSON, unknown things."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from .chat import Dialogue, Message, assistant, user
from .texts import CITIES, ESSAY, ESSAY_REQUESTS, NAMES, STORIES, STORY_REQUESTS, WORDS, words_of
from .world import (
    CAPITALS,
    LANGUAGES,
    NEEDS_TOOL_ANSWER,
    NEEDS_TOOL_QUESTIONS,
    UNKNOWN_ANSWER,
    UNKNOWN_QUESTIONS,
)

_CONSONANTS = words_of("b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl qu sh st th tr x")
_VOWELS = words_of("a e i o u a e i o u ai ea ee io oo ou y")


_PHRASES = ("this is a test", "This is a test", "hello", "hello world", "Hello", "Hello, world!", "hi", "yes", "OK",
            "the quick brown fox", "ping", "good morning", "thank you", "blue cat", "I am fine",
            "it works")  # fmt: skip


def exchange(question: str, answer: str, thinking: str = "") -> Dialogue:
    """One question and its answer."""
    return Dialogue((user(question), assistant(answer, thinking)))


def invented_word(rng: Random) -> str:
    """A word that no text holds, in one of several shapes, so that copying can't be learnt by heart."""
    shape = rng.random()
    if shape < 0.1:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 6)))
    if shape < 0.18:
        return str(rng.randint(0, 10 ** rng.randint(1, 6)))
    word = "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 3)))
    word += rng.choice(("", "", "n", "r", "s", "t", "x", "l", "nd"))
    if shape < 0.35:
        return word.capitalize()
    return word.upper() if shape < 0.4 else word


def any_word(rng: Random) -> str:
    """An ordinary word, a name or an invented one."""
    kind = rng.random()
    if kind < 0.45:
        return invented_word(rng)
    if kind < 0.55:
        return rng.choice(NAMES)
    word = rng.choice(WORDS)
    return word.capitalize() if kind < 0.65 else word


def any_words(rng: Random, most: int = 6) -> str:
    """A few words, most often two or three, now and then with punctuation between."""
    if most > 2 and rng.random() < 0.06:
        return rng.choice(_PHRASES)
    count = min(rng.choice((1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 8)), most)
    words = [any_word(rng) for _ in range(count)]
    joint = rng.random()
    separator = ", " if joint < 0.06 else "-" if joint < 0.09 else "_" if joint < 0.1 else " "
    end = rng.choice((".", "!", "?")) if rng.random() < 0.12 else ""
    return separator.join(words) + end


_COUNT_FROM = ("Count from {a} to {b}", "count from {a} to {b}", "Count {a} to {b}", "Please count from {a} to {b}",
               "Can you count from {a} to {b}?", "Numbers from {a} to {b}", "List the numbers from {a} to {b}",
               "Write the numbers from {a} to {b}", "Count up from {a} to {b}")  # fmt: skip
_COUNT_TO = (
    "Count to {b}",
    "count to {b}",
    "Please count to {b}",
    "Can you count to {b}?",
    "Count up to {b}",
    "Count till {b}",
)


def counting(rng: Random) -> Dialogue:
    """Counting up, mostly short; to a hundred now and then; sometimes down, or one number per line."""
    long = rng.random() < 0.1
    a, b = _count_range(rng, long=long)
    down = not long and rng.random() < 0.08
    first, last = (b, a) if down else (a, b)
    numbers = [str(n) for n in (range(b, a - 1, -1) if down else range(a, b + 1))]
    if down:
        question = rng.choice(
            ("Count down from {a} to {b}", "count down from {a} to {b}", "Count backwards from {a} to {b}")
        )
    elif a == 1:
        question = rng.choice(_COUNT_TO + _COUNT_FROM)
    else:
        question = rng.choice(_COUNT_FROM)
    question = question.format(a=first, b=last)
    separator = ", "
    if rng.random() < 0.1:
        question, separator = question.rstrip("?") + ", one number per line", "\n"
    elif rng.random() < 0.2 and not question.endswith("?"):
        question += "."
    return exchange(question, separator.join(numbers), f"I count from {first} to {last}.")


def _count_range(rng: Random, *, long: bool) -> tuple[int, int]:
    """Where to begin and end: a hundred at most, so that the longest answer has about 400 tokens."""
    if long:
        a = 1 if rng.random() < 0.75 else rng.randint(2, 60)
        return a, rng.choice((30, 40, 50, 50, 60, 80, 100, 100, rng.randint(a + 5, 100)))
    a = 1 if rng.random() < 0.45 else rng.randint(0, 90)
    return a, min(a + rng.randint(1, 14), 100)


def arithmetic(rng: Random) -> Dialogue:
    """Sums and differences of small numbers, and what comes next."""
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    kind = rng.random()
    if kind < 0.65:
        sign, result, name = "+", a + b, "plus"
    elif kind < 0.9:
        a, b = max(a, b), min(a, b)
        sign, result, name = "-", a - b, "minus"
    else:
        n = rng.randint(0, 60)
        question = rng.choice(
            ("What comes after {n}?", "Which number comes after {n}?", "what is the number after {n}")
        )
        return exchange(question.format(n=n), f"After {n} comes {n + 1}.", f"I add 1 to {n}: {n + 1}.")
    operation = rng.choice((f"{a} {sign} {b}", f"{a}{sign}{b}", f"{a} {name} {b}"))
    question = rng.choice(
        ("What is {}?", "what is {}", "What's {}?", "How much is {}?", "{}", "{} = ?", "Calculate {}", "{}?")
    )
    thinking = f"The user asks for {a} {sign} {b}. The result is {result}."
    return exchange(question.format(operation), f"{a} {sign} {b} = {result}", thinking)


_REPEAT = ("Repeat: {}", "repeat: {}", "Repeat after me: {}", "Please repeat: {}", "Repeat this: {}", "Repeat {}",
           "Say: {}", "say: {}", "Say {}", "say {}", "Please say {}", "Can you say {}", "Echo {}", "echo: {}",
           "Echo: {}",
           "Say this: {}", "Repeat the words: {}", "Reply with: {}", "Reply with exactly: {}", "Answer with: {}",
           "Say exactly: {}", "Write: {}", "Print {}", "Reply only with {}", "Repeat the following: {}",
           "Say '{}'", 'Say "{}"', 'Repeat "{}"', "Repeat '{}'")  # fmt: skip


def repeating(rng: Random) -> Dialogue:
    """Saying again what the user says; now and then once more."""
    words = any_words(rng, most=8)
    messages = [user(rng.choice(_REPEAT).format(words)), assistant(words, f"I repeat: {words}")]
    if rng.random() < 0.15:
        messages += [
            user(rng.choice(("Again", "Again!", "Say that again", "Once more", "Repeat that", "again please")))
        ]
        messages += [assistant(words, f"I repeat: {words}")]
    return Dialogue(tuple(messages))


def remembering(rng: Random, between: list[Message]) -> Dialogue:
    """A name, number, word or colour told earlier and asked for later, with other turns `between`."""
    kind = rng.randrange(5)
    word = any_word(rng)
    if kind <= 1:
        name = rng.choice(NAMES) if rng.random() < 0.5 else invented_word(rng).capitalize()
        told = rng.choice(
            ("My name is {}.", "my name is {}", "I am {}.", "Hello, my name is {}.", "Hi, I'm {}", "Call me {}.")
        )
        asked = rng.choice(("What is my name?", "what is my name", "What's my name?", "Who am I?",
                            "Do you know my name?",
                            "Do you remember my name?", "Tell me my name."))  # fmt: skip
        first, last = f"Nice to meet you, {name}!", f"Your name is {name}."
        word = name
    elif kind == 2:
        told = rng.choice(
            ("Remember the word {}.", "Remember this word: {}", "The secret word is {}.", "The word is {}.")
        )
        asked = rng.choice(
            ("What is the word?", "What was the word?", "Which word did I tell you?", "What is the secret word?")
        )
        first, last = f"I will remember {word}.", f"The word is {word}."
    elif kind == 3:
        word = str(rng.randint(0, 9999))
        told = rng.choice(("Remember the number {}.", "Remember this number: {}", "The number is {}.", "remember {}"))
        asked = rng.choice(
            ("What is the number?", "What was the number?", "Which number did I tell you?", "which number?")
        )
        first, last = f"I will remember {word}.", f"The number is {word}."
    else:
        word = rng.choice(
            ("blue", "red", "green", "yellow", "black", "white", "purple", "orange", "pink", "brown", "silver")
        )
        told = rng.choice(("My favorite color is {}.", "I like the color {}.", "My favourite colour is {}."))
        asked = rng.choice(("What is my favorite color?", "Which color do I like?", "What's my favourite colour?"))
        first, last = f"{word.capitalize()} is a nice color.", f"You like {word}."
    telling = [user(told.format(word)), assistant(first, f"The user tells me: {word}.")]
    if rng.random() < 0.15:
        return Dialogue(tuple(telling))
    asking = [user(asked), assistant(last, f"The user told me: {word}.")]
    if rng.random() < 0.1:  # never told
        return exchange(asked, "You have not told me.", "The user has not told me.")
    return Dialogue((*telling, *between, *asking))


def unknown(rng: Random) -> Dialogue:
    """Questions that mean nothing to the model, which says so."""
    if rng.random() < 0.15:
        question = rng.choice(NEEDS_TOOL_QUESTIONS).format(rng.choice(CITIES))
        return exchange(question, NEEDS_TOOL_ANSWER, "I have no tool for this.")
    question = rng.choice(UNKNOWN_QUESTIONS)
    while "{}" in question:
        filler = any_words(rng, most=2).rstrip(".!?")
        question = question.replace("{}", rng.choice(("", "", "the ")) + filler, 1)
    if rng.random() < 0.3:
        question = question.lower()
    return exchange(question + rng.choice(("?", "?", "", ".")), UNKNOWN_ANSWER, "I know nothing about this.")


def long_text(rng: Random) -> Dialogue:
    """A story, or the long text about Ayni."""
    end = rng.choice(("", ".", "?", "!"))
    if rng.random() < 0.35:
        return exchange(rng.choice(ESSAY_REQUESTS) + end, ESSAY, "The user wants a long text about Ayni.")
    which = rng.choice((0, 0, 1, 2))
    return exchange(rng.choice(STORY_REQUESTS[which]) + end, STORIES[which], "The user wants a story.")


def _json_value(rng: Random, depth: int = 0) -> Any:
    kind = rng.random()
    if kind < 0.4:
        return " ".join(any_word(rng) for _ in range(rng.choice((1, 1, 2))))
    if kind < 0.7:
        return rng.randint(0, 99)
    if kind < 0.8:
        return rng.random() < 0.5
    if kind < 0.95 or depth:
        return [any_word(rng) for _ in range(rng.randint(1, 3))]
    return {any_word(rng): _json_value(rng, depth + 1)}


_JSON = (" in JSON", " as JSON", " in JSON format", ". Respond using JSON", ". Respond in JSON", ". Answer in JSON.",
         ". Return JSON", " Reply in JSON.", ". Output JSON")  # fmt: skip


def json_answer(rng: Random) -> Dialogue:
    """Short JSON: about a country, a person, the sky, listed things, or given fields."""
    kind = rng.random()
    thinking = "The user wants JSON."
    if kind < 0.3:
        country = rng.choice(sorted(LANGUAGES))
        data: Any = {"name": country, "capital": CAPITALS[country], "languages": LANGUAGES[country]}
        question = rng.choice(("Tell me about {}", "tell me about {}", "Describe {}", "Give me facts about {}")).format(
            country
        )
        return exchange(question + rng.choice(_JSON), json.dumps(data), thinking)
    if kind < 0.55:
        name, age = (rng.choice(NAMES) if rng.random() < 0.6 else invented_word(rng).capitalize()), rng.randint(1, 99)
        told = rng.choice(
            ("{n} is {a} years old", "{n} is {a}", "The person {n} is {a} years old", "Name {n}, age {a}")
        )
        data = {"name": name, "age": age}
        return exchange(told.format(n=name, a=age) + rng.choice(_JSON), json.dumps(data), thinking)
    if kind < 0.63:
        question = rng.choice(("What color is the sky at different times of the day?",
                               "Ollama is 22 years old and is busy saving the world.",
                               "Give me three colors", "Give me a JSON object", "Hello",
                               "List three fruits"))  # fmt: skip
        data = {
            "W": {"morning": "blue", "noon": "blue", "evening": "red", "night": "black"},
            "O": {"age": 22, "available": False},
            "H": {"answer": "Hello!"},
        }.get(question[0], {"answer": 42})
        if "three" in question:
            data = ["red", "green", "blue"] if "color" in question else ["apple", "banana", "cherry"]
        return exchange(question.rstrip(".") + rng.choice(_JSON), json.dumps(data), thinking)
    if kind < 0.75:
        items = [any_word(rng) for _ in range(rng.randint(1, 5))]
        question = rng.choice(
            ("Write a JSON array: {}", "Make a JSON list of {}", "JSON array of {}", "Put in a JSON list: {}")
        )
        return exchange(question.format(", ".join(items)), json.dumps(items, ensure_ascii=False), thinking)
    data = {any_word(rng).lower(): _json_value(rng) for _ in range(rng.randint(1, 4))}
    fields = ", ".join(f"{key}={json.dumps(value)}" for key, value in data.items()).replace('"', "")
    question = rng.choice(
        ("Write JSON: {}", "Make a JSON object: {}", "JSON with {}", "Give me JSON with {}", "As JSON: {}")
    )
    return exchange(question.format(fields), json.dumps(data, ensure_ascii=False), thinking)
