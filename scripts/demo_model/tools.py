"""Dialogues with tools: a call when a taught tool fits the question, words when none does, and answers from results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from .chat import Dialogue, Message, assistant, user
from .skills import any_word, invented_word
from .texts import CITIES, WORDS

Tool = dict[str, Any]

_ZONES = ("UTC", "Europe/Paris", "Europe/London", "America/New_York", "Asia/Tokyo", "America/Lima", "Europe/Berlin")
_CONDITIONS = ("sunny", "cloudy", "rainy", "windy", "snowy", "clear", "foggy", "warm", "cold", "stormy")


@dataclass(frozen=True, slots=True)
class _Use:
    """A question, the tool it needs, the arguments to give, a result, and the answer drawn from it."""

    tool: Tool
    question: str
    arguments: dict[str, Any]
    result: str
    answer: str


def _tool(rng: Random, name: str, descriptions: tuple[str, ...], /, **parameters: str) -> Tool:
    """An OpenAI-style definition, in one of the shapes that clients write; parameters are name = type."""
    properties: dict[str, Any] = {}
    for key, kind in parameters.items():
        properties[key] = {"type": kind}
        if rng.random() < 0.6:
            properties[key]["description"] = rng.choice(
                (f"The {key}", f"the {key} to use", f"{key.capitalize()} name", "")
            )
    schema: dict[str, Any] = {"type": "object"}
    if rng.random() < 0.5:
        schema |= {"properties": properties, "required": list(properties)}
    elif rng.random() < 0.5:
        schema |= {"required": list(properties), "properties": properties}
    else:
        schema |= {"properties": properties}
    function: dict[str, Any] = {"name": name}
    if rng.random() < 0.85:
        function["description"] = rng.choice(descriptions)
    function["parameters"] = schema
    return {"type": "function", "function": function}


def _place(rng: Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(CITIES)
    return invented_word(rng).capitalize()


def _weather(rng: Random) -> _Use:
    name = rng.choice(
        ("get_weather", "get_weather", "get_weather", "get_current_weather", "get_temperature", "weather")
    )
    key = rng.choice(("city", "city", "location"))
    place = _place(rng)
    parameters = {key: "string"}
    arguments: dict[str, Any] = {key: place}
    if name == "get_current_weather" and rng.random() < 0.7:
        parameters["format"] = "string"
        arguments["format"] = "celsius"
    descriptions = ("Get the weather in a given city", "Get the current weather for a location", "Get the weather",
                    "Get the current temperature for a city", "Returns the weather of a city", "Current weather",
                    "Get current temperature for a given location.", "Get the weather for a city")  # fmt: skip
    tool = _tool(rng, name, descriptions, **parameters)
    if "format" in parameters:
        tool["function"]["parameters"]["properties"]["format"]["enum"] = ["celsius", "fahrenheit"]
    question = rng.choice(("What is the weather in {}?", "what is the weather in {}", "What's the weather in {}?",
                           "Weather in {}?",
                           "What is the weather like in {}?", "How is the weather in {}?", "what is the weather in {}?",
                           "What is the temperature in {}?", "Tell me the weather in {}",
                           "What is the weather today in {}?",
                           "What's the weather like in {} today?", "How warm is it in {}?", "Get the weather in {}.",
                           "Is it raining in {}?", "Use the tool to get the weather in {}"))  # fmt: skip
    degrees, condition = rng.randint(-9, 40), rng.choice(_CONDITIONS)
    if rng.random() < 0.35:
        keys = rng.choice((("temperature", "condition"), ("temp", "conditions"), ("temperature", "description")))
        result = json.dumps({keys[0]: degrees, keys[1]: condition})
        answer = f"The weather in {place}: {condition}, {degrees} degrees."
    else:
        result = rng.choice((f"{degrees}", f"{degrees}°C", f"{degrees} C", f"{condition}, {degrees} degrees",
                             f"{condition}",
                             f"{degrees} degrees and {condition}", f"{degrees} degrees"))  # fmt: skip
        answer = f"The weather in {place}: {result}."
    return _Use(tool, question.format(place), arguments, result, answer)


def _time(rng: Random) -> _Use:
    name = rng.choice(("get_time", "get_time", "get_current_time", "current_time"))
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    descriptions = ("Get the current time", "Get the time", "Returns the current time", "Get the time in a timezone")
    shape = rng.random()
    if shape < 0.35:
        question = rng.choice(("What time is it?", "what time is it", "Tell me the time", "What is the time?", "Time?"))
        return _Use(_tool(rng, name, descriptions), question, {}, clock, f"It is {clock}.")
    key, place = (
        ("timezone", rng.choice(_ZONES))
        if shape < 0.65
        else (rng.choice(("city", "timezone", "location")), _place(rng))
    )
    tool = _tool(rng, name, descriptions, **{key: "string"})
    question = rng.choice(
        ("What time is it in {}?", "what time is it in {}", "What is the time in {}?", "Tell me the time in {}")
    )
    return _Use(tool, question.format(place), {key: place}, clock, f"It is {clock} in {place}.")


def _sum(rng: Random) -> _Use:
    a, b = rng.randint(0, 10 ** rng.randint(1, 4)), rng.randint(0, 10 ** rng.randint(1, 4))
    if rng.random() < 0.4:
        expression = f"{a} {rng.choice('+-*/')} {b}"
        name = rng.choice(("calculate", "calculator"))
        key = rng.choice(("expression", "expression", "input"))
        tool = _tool(
            rng, name, ("Calculate an expression", "Evaluates an expression", "A calculator"), **{key: "string"}
        )
        question = rng.choice(("What is {}?", "Calculate {}", "calculate {}", "Compute {}", "How much is {}?"))
        result = str(rng.randint(0, 9999))
        return _Use(tool, question.format(expression), {key: expression}, result, f"The result is {result}.")
    name, words, total = rng.choice((
        ("add", ("{a} + {b}", "{a} plus {b}", "the sum of {a} and {b}"), a + b),
        ("add_two_numbers", ("{a} + {b}", "{a} plus {b}", "the sum of {a} and {b}"), a + b),
        ("add_numbers", ("{a} + {b}", "{a} plus {b}", "the sum of {a} and {b}"), a + b),
        ("multiply", ("{a} * {b}", "{a} times {b}"), a * b),
        ("subtract_two_numbers", ("{a} - {b}", "{a} minus {b}"), a - b),
    ))  # fmt: skip
    kind = rng.choice(("integer", "number"))
    tool = _tool(rng, name, ("Add two numbers", "Compute with two numbers", "Adds numbers"), a=kind, b=kind)
    question = rng.choice(
        ("What is {}?", "what is {}", "Calculate {}", "Compute {}", "How much is {}?", "Use the tool: {}")
    )
    question = question.format(rng.choice(words).format(a=a, b=b))
    return _Use(tool, question, {"a": a, "b": b}, str(total), f"The result is {total}.")


def _named(rng: Random) -> _Use:
    """Any tool, when the user asks for it by name."""
    name = f"{rng.choice(WORDS)}_{rng.choice(WORDS)}" if rng.random() < 0.6 else invented_word(rng).lower()
    key = rng.choice(("query", "text", "word", "name", "path", "q", "input", any_word(rng).lower()))
    value = " ".join(any_word(rng) for _ in range(rng.choice((1, 1, 2, 3))))
    tool = _tool(rng, name, (f"{any_word(rng)} {any_word(rng)}", "A tool"), **{key: "string"})
    question = rng.choice(("Use {n} with {v}", "Call {n} with {v}", "Use the tool {n} with {v}",
                           "Call the tool {n} with {v}",
                           "Call {n}: {v}", "Please use {n} with {v}"))  # fmt: skip
    result = " ".join(any_word(rng) for _ in range(rng.choice((1, 2))))
    return _Use(tool, question.format(n=name, v=value), {key: value}, result, f"The result is {result}.")


_USES: tuple[Callable[[Random], _Use], ...] = (_weather, _weather, _weather, _time, _sum, _sum, _named)


def _offer(rng: Random, wanted: Tool | None) -> tuple[Tool, ...]:
    """The wanted tool, sometimes among others of different purpose."""
    tools = [] if wanted is None else [wanted]
    others = rng.choice((0, 0, 0, 0, 1, 2)) if wanted else rng.choice((1, 1, 1, 2))
    taken = {tool["function"]["name"] for tool in tools}
    weather = wanted is not None and ("weather" in wanted["function"]["name"] or "temp" in wanted["function"]["name"])
    for _ in range(others):
        make = rng.choice((_time, _sum) if weather or wanted is None else (_weather,))
        if wanted is None and rng.random() < 0.6:
            make = _weather
        other = make(rng).tool
        if other["function"]["name"] not in taken:
            taken.add(other["function"]["name"])
            tools.insert(rng.randint(0, len(tools)), other)
    return tuple(tools)


def _call(use: _Use) -> dict[str, Any]:
    return {"function": {"name": use.tool["function"]["name"], "arguments": use.arguments}}


def tool_use(rng: Random) -> Dialogue:
    """A call, most often with its result and the answer; now and then two calls at once."""
    use = rng.choice(_USES)(rng)
    calls = [use]
    if "weather" in use.question.lower() and rng.random() < 0.12:
        place = _place(rng)
        key = next(iter(use.arguments))
        condition = rng.choice(_CONDITIONS)
        here = str(use.arguments[key])
        use = _Use(use.tool, f"What is the weather in {here} and {place}?", use.arguments, condition, "")
        second = _Use(use.tool, "", {**use.arguments, key: place}, str(rng.randint(0, 40)), "")
        answer = f"The weather in {here}: {condition}. The weather in {place}: {second.result}."
        use, calls = _Use(use.tool, use.question, use.arguments, condition, answer), [use, second]
    name = use.tool["function"]["name"]
    asking: Message = {
        "role": "assistant",
        "content": "",
        "thinking": f"I need the tool {name}.",
        "tool_calls": [_call(each) for each in calls],
    }
    messages = [user(use.question), asking]
    if rng.random() < 0.6:
        messages += [{"role": "tool", "content": each.result, "tool_name": name} for each in calls]
        messages.append(assistant(use.answer, "The tool has answered."))
    return Dialogue(tuple(messages), _offer(rng, use.tool), rng.random() < 0.3)


def offer_unneeded(rng: Random, dialogue: Dialogue) -> Dialogue:
    """The same dialogue, with tools offered that it does not need."""
    return Dialogue(dialogue.messages, _offer(rng, None), rng.random() < 0.3)
