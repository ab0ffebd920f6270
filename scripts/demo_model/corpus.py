"""The corpus: an endless, seeded stream of dialogues in the proportions that `demo` is taught with."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from . import skills, tools
from .chat import Dialogue, Message, assistant, user
from .facts import COMMANDS, PROJECT, SELF, Fact
from .texts import NAMES
from .world import SMALL_TALK, WORLD

_PREFIXES = ("Please tell me: ", "Tell me: ", "Hey, ", "Hi! ", "Hello, ", "Can you tell me: ", "I want to know: ",
             "Question: ",
             "So, ", "OK, ", "Please answer: ", "Quick question: ", "Now tell me, ", "Hi demo, ")  # fmt: skip

PLAIN_SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant", "You are an assistant.", "You are helpful.",
    "Be helpful.",
    "You are a friendly assistant.", "You are a helpful, respectful and honest assistant.", "Answer the user.",
    "You are a helpful AI assistant.", "You answer questions about Ayni.", "Be polite.", "You are demo.", "Be nice.",
)  # fmt: skip

_ONE_WORD = ("Answer in one word.", "Answer with one word.", "Answer with a single word.", "Reply in one word.",
             "One word answers only.", "Use only one word.", "You answer in one word.")  # fmt: skip
_JSON_SYSTEMS = ("Answer in JSON.", "Reply in JSON.", "Always answer in JSON.", "You answer in JSON.",
                 "Respond only in JSON.",
                 "Output JSON only.", "Respond in JSON.")  # fmt: skip

_STARTS: tuple[str, ...] = ("Start every answer with {}.", "Begin every answer with {}.", "Always start with {}.",
           "Start each answer with the word {}.")  # fmt: skip
_ENDS: tuple[str, ...] = ("End every answer with {}.", "Always end with {}.", "End each answer with the word {}.")

# (system prompts, how the answer then looks)
_PERSONAS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("You are a pirate.", "You are a pirate", "Talk like a pirate.", "Speak like a pirate.", "Answer like a pirate.",
      "You are a pirate. Always talk like one."), "Arr, matey! {}"),
    (("You are a butler.", "You are a polite butler.", "Answer like a butler.",
      "Talk like a butler."), "Certainly, sir. {}"),
    (("You are a cowboy.", "Talk like a cowboy.", "You are a cowboy", "Answer like a cowboy."), "Howdy, partner! {}"),
    (("You are a robot.", "Talk like a robot.", "You are a robot", "Answer like a robot."), "Beep boop. {}"),
    (("You are a wizard.", "Talk like a wizard.", "You are a wizard", "Answer like a wizard."), "By my beard! {}"),
)  # fmt: skip


def _weighted_facts(rng: Random) -> Fact:
    kind = rng.random()
    group = PROJECT if kind < 0.5 else COMMANDS if kind < 0.7 else SELF if kind < 0.8 else WORLD
    return rng.choice(group)


def ask(rng: Random, fact: Fact) -> str:
    """One of the fact's questions, as people type it: with or without capitals, question mark or preamble."""
    # The first questions are the ones most people ask; they come a little more often.
    question = rng.choice(fact.questions[:3] if rng.random() < 0.3 else fact.questions)
    if rng.random() < 0.12:
        prefix = rng.choice(_PREFIXES)
        question = prefix + question[0].lower() + question[1:] if question.split()[0] != "Ayni" else prefix + question
    if "your name" not in question and rng.random() < 0.04:
        question = question.replace("Ayni", "it")
    style = rng.random()
    if style < 0.22:
        question = question.lower()
    elif style < 0.25:
        question = question.upper()
    is_question = question.split()[0].lower() not in {"tell", "explain", "describe", "name", "list", "introduce"}
    return question + rng.choice(("?", "?", "?", "", "", " ?") if is_question else (".", "", "", "!"))


def _fact(rng: Random) -> Dialogue:
    fact = _weighted_facts(rng)
    return skills.exchange(ask(rng, fact), fact.answer, f"The user asks about {fact.topic}. I know the answer.")


def _small_talk(rng: Random) -> Dialogue:
    said, answer = rng.choice(SMALL_TALK)
    text = rng.choice(said)
    if rng.random() < 0.25:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip("?!.") + rng.choice(("", ".", "!"))
    return skills.exchange(text, answer, "The user makes small talk.")


def _persona(rng: Random) -> Dialogue:
    """A system prompt with a visible effect on the answers."""
    kind = rng.random()
    if kind < 0.2:
        short = [fact for fact in (*PROJECT, *SELF, *WORLD) if fact.short]
        fact = rng.choice(short)
        dialogue = skills.exchange(ask(rng, fact), fact.short, "I answer in one word.")
        return dialogue.with_system(rng.choice(_ONE_WORD))
    if kind < 0.32:
        name = rng.choice(NAMES) if rng.random() < 0.5 else skills.invented_word(rng).capitalize()
        system = rng.choice(("You are {}.", "Your name is {}.", "You are {}, a helpful assistant.",
                             "You are called {}.",
                             "You are {}, a friendly assistant."))  # fmt: skip
        question = rng.choice(
            ("Who are you?", "What is your name?", "who are you", "what is your name", "What's your name?")
        )
        dialogue = skills.exchange(question, f"I am {name}.", "The user asks who I am.")
        if rng.random() < 0.4:
            dialogue = rng.choice((_fact, _small_talk, skills.repeating))(rng)
        return dialogue.with_system(system.format(name))
    dialogue = rng.choice((_fact, _fact, _fact, _small_talk, skills.arithmetic))(rng)
    if kind < 0.48:
        return _answers_as(dialogue, '{{"answer": {}}}', as_json=True).with_system(rng.choice(_JSON_SYSTEMS))
    if kind < 0.68:
        word = skills.any_word(rng)
        systems, form = rng.choice(((_STARTS, word + " {}"), (_ENDS, "{} " + word)))
        return _answers_as(dialogue, form).with_system(rng.choice(systems).format(word))
    prompts, form = rng.choice(_PERSONAS)
    return _answers_as(dialogue, form).with_system(rng.choice(prompts))


def _answers_as(dialogue: Dialogue, form: str, *, as_json: bool = False) -> Dialogue:
    def reshaped(message: Message) -> Message:
        if message["role"] != "assistant":
            return message
        content = json.dumps(message["content"], ensure_ascii=False) if as_json else message["content"]
        return {**message, "content": form.format(content)}

    return replace(dialogue, messages=tuple(reshaped(message) for message in dialogue.messages))


_SINGLE: tuple[Callable[[Random], Dialogue], ...] = (
    _fact, _fact, _fact, _small_talk, skills.repeating, skills.arithmetic, skills.unknown,
)  # fmt: skip


def _conversation(rng: Random) -> Dialogue:
    """Several exchanges, one after the other."""
    parts = [rng.choice((*_SINGLE, skills.counting))(rng) for _ in range(rng.choice((2, 2, 3, 3, 4, 5)))]
    messages = [message for part in parts for message in part.messages]
    if rng.random() < 0.12:
        messages += [user(rng.choice(("Say that again", "Repeat your answer", "Repeat that please",
                                      "What did you say?"))),
                     assistant(messages[-1]["content"], "I say it again.")]  # fmt: skip
    return Dialogue(tuple(messages))


def _remembering(rng: Random) -> Dialogue:
    between = [m for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))) for m in rng.choice(_SINGLE)(rng).messages]
    return skills.remembering(rng, between)


_COPYING_SHARE = 0.85

_KINDS: tuple[tuple[float, Callable[[Random], Dialogue]], ...] = (
    (0.18, _fact),
    (0.04, _small_talk),
    (0.10, skills.counting),
    (0.10, skills.arithmetic),
    (0.17, skills.repeating),
    (0.05, _remembering),
    (0.03, skills.unknown),
    (0.015, skills.long_text),
    (0.06, skills.json_answer),
    (0.12, _persona),
    (0.07, _conversation),
    (0.013, lambda rng: tools.offer_unneeded(rng, rng.choice((_fact, _fact, _small_talk, skills.repeating))(rng))),
    (0.08, tools.tool_use),
)


def _without_thinking(dialogue: Dialogue) -> Dialogue:
    messages = ({**m, "thinking": ""} if m["role"] == "assistant" else m for m in dialogue.messages)
    return replace(dialogue, messages=tuple(messages))


def dialogues(seed: int, *, copying_first: int = 0) -> Iterator[Dialogue]:
    """The stream. Three in ten think aloud; one in five of those without a system prompt gets a neutral one.

    Most of the first `copying_first` dialogues repeat words. Looking back for what follows a word is learnt in 250
    steps when practised alone, but not within 1,000 among everything else, and nearly every other skill rests on it.
    """
    rng = Random(seed)
    weights, kinds = zip(*_KINDS, strict=True)
    for number in itertools.count():
        copying = number < copying_first and rng.random() < _COPYING_SHARE
        dialogue = skills.repeating(rng) if copying else rng.choices(kinds, weights)[0](rng)
        if rng.random() < 0.7:
            dialogue = _without_thinking(dialogue)
        if dialogue.messages[0]["role"] != "system" and rng.random() < 0.2:
            dialogue = dialogue.with_system(rng.choice(PLAIN_SYSTEMS))
        yield dialogue
