# ruff: noqa: E501 - a table of cases reads better with one on each line
"""From a model's text to thinking, answer and tool calls."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.jobs import Think
from node.prompt import OutputParser, Parsed, PromptTemplate
from tests.prompt.chats import assistant, chat, read, tool, user

TOOLS = (tool("get", city="string"), tool("get_weather", city="string", days="integer"), tool("now"))
HERMES = "{% for m in messages %}{{ m.content }}{% endfor %}{# tools <tool_call> <think> </think> #}"
OPENS = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}"
LLAMA = "{% for m in messages %}{{ m.content }}{% endfor %}{# tools <|python_tag|> #}"
MISTRAL = "{% for m in messages %}{{ m.content }}{% endfor %}{# tools [TOOL_CALLS] #}"
DEEPSEEK = "{% for m in messages %}{{ m.content }}{% endfor %}{# <｜tool▁calls▁begin｜> #}"
FUNCTION = "{% for m in messages %}{{ m.content }}{% endfor %}{# <function= #}"
GO = "{{ range .Messages }}{{ if .ToolCalls }} TAG {{ .ToolCalls }}{{ end }}{{ end }}"


def parser(template: str, *, tools: bool = True, think: Think = None, begun: str = "") -> OutputParser:
    messages = (user("q"), assistant(begun)) if begun else (user("q"),)
    loaded = PromptTemplate.load(template, None, bos="", eos="")
    return loaded.output_parser(chat(*messages, tools=TOOLS if tools else (), think=think))


def calls(parsed: Parsed) -> list[tuple[str, dict[str, object]]]:
    return [(call.name, call.arguments) for call in parsed.tool_calls]


@pytest.mark.parametrize(
    ("output", "thinking", "text"),
    [
        ("<think>\nhm\n</think>\n\nyes", "hm\n", "yes"),
        ("  \n<think>hm</think>yes", "hm", "yes"),
        ("<think>a < b </thin </think> c</think>", "a < b </thin ", "c</think>"),
        ("yes <think>no</think>", "", "yes <think>no</think>"),
        ("  yes", "", "  yes"),
        ("<think>never ends </thi", "never ends </thi", ""),
        ("<thi", "", "<thi"),
        ("<think></think>yes", "", "yes"),
        ("", "", ""),
    ],
)
def test_thinking_is_told_from_the_answer(output: str, thinking: str, text: str) -> None:
    assert read(parser(HERMES), *output) == Parsed(text, thinking)
    assert read(parser(HERMES), output) == Parsed(text, thinking)


def test_a_template_that_opens_the_thinking_is_noticed() -> None:
    assert read(parser(OPENS), "hm</think>\nyes") == Parsed("yes", "hm")
    assert read(parser(OPENS, think=False), "hm</think>\nyes") == Parsed("yes", "hm")


def test_after_a_begun_answer_no_thinking_comes() -> None:
    assert read(parser(HERMES, begun="It"), " <think>is</think>") == Parsed(" <think>is</think>")


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("<think>\n\n</think>\n\nyes", "yes"),
        ("<think>hm</think>yes", "<think>hm</think>yes"),
        ("yes", "yes"),
        ("<think>\n", "<think>\n"),
    ],
)
def test_told_not_to_think_an_empty_thought_vanishes_and_a_real_one_stays_visible(output: str, text: str) -> None:
    assert read(parser(HERMES, think=False), *output) == Parsed(text)


def test_without_tags_in_the_template_nothing_is_thinking() -> None:
    assert read(parser(LLAMA, tools=False), "<think>a</think>b") == Parsed("<think>a</think>b")


WEATHER = ("get_weather", {"city": "Rome"})
JSON_CALL = '{"name": "get_weather", "arguments": {"city": "Rome"}}'


@pytest.mark.parametrize(
    ("template", "output", "expected", "text"),
    [
        (HERMES, f"<tool_call>\n{JSON_CALL}\n</tool_call>", [WEATHER], ""),
        (HERMES, f"<think>x</think>\n\n<tool_call>{JSON_CALL}</tool_call>", [WEATHER], ""),
        (HERMES, f"Well. <tool_call>{JSON_CALL}</tool_call> Done.", [WEATHER], "Well. Done."),
        (HERMES, f"\n\n<tool_call>{JSON_CALL}</tool_call>\n<tool_call>{JSON_CALL}</tool_call>\n", [WEATHER] * 2, ""),
        (HERMES, f"<tool_call>{JSON_CALL}\n{JSON_CALL}</tool_call>", [WEATHER] * 2, ""),
        (HERMES, f"<tool_call>{JSON_CALL}", [WEATHER], ""),
        (HERMES, f"<tool_call>[{JSON_CALL}, {JSON_CALL}]</tool_call>", [WEATHER] * 2, ""),
        (HERMES, '<tool_call>{"name": "now"}</tool_call>', [("now", {})], ""),
        (HERMES, '<tool_call>{"name": "get", "arguments": "{\\"city\\": \\"R\\"}"}</tool_call>', [("get", {"city": "R"})], ""),
        (HERMES, '<tool_call>{"name": "get", "arguments": {"city": "</tool_call>}"}}</tool_call>!', [("get", {"city": "</tool_call>}"})], "!"),
        (HERMES, r'<tool_call>{"name": "get", "arguments": {"city": "a\"}}\\"}}</tool_call>', [("get", {"city": 'a"}}\\'})], ""),
        (HERMES, '<tool_call>{"type": "function", "function": {"name": "now", "arguments": {}}}</tool_call>', [("now", {})], ""),
        (HERMES, "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>", [("get_weather", {"city": "Rome", "days": 3})], ""),
        (HERMES, '<tool_call>{"name": "unknown", "arguments": {}}</tool_call> x', [], '<tool_call>{"name": "unknown", "arguments": {}}</tool_call> x'),
        (HERMES, '<tool_call>{"name": "get", "arguments": {"city"}}</tool_call>x', [], '<tool_call>{"name": "get", "arguments": {"city"}}</tool_call>x'),
        (HERMES, '<tool_call>{"name": "get", "argu', [], '<tool_call>{"name": "get", "argu'),
        (HERMES, "a <tool", [], "a <tool"),
        (HERMES, JSON_CALL, [], JSON_CALL),
        (LLAMA, '{"name": "get_weather", "parameters": {"city": "Rome"}}', [WEATHER], ""),
        (LLAMA, f" \n{JSON_CALL}; {JSON_CALL}", [WEATHER] * 2, ""),
        (LLAMA, f"[{JSON_CALL}]", [WEATHER], ""),
        (LLAMA, f"<|python_tag|>{JSON_CALL}", [WEATHER], ""),
        (LLAMA, '{"get_weather": {"city": "Rome"}}', [WEATHER], ""),
        (LLAMA, f"So: {JSON_CALL}", [], f"So: {JSON_CALL}"),
        (LLAMA, ' {"answer": [1, "}"]} ok', [], ' {"answer": [1, "}"]} ok'),
        (LLAMA, '{"name": "get_weather"}', [], '{"name": "get_weather"}'),
        (LLAMA, "{not json} at all", [], "{not json} at all"),
        (MISTRAL, f"[TOOL_CALLS] [{JSON_CALL}, {JSON_CALL}]", [WEATHER] * 2, ""),
        (MISTRAL, '[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}', [WEATHER], ""),
        (MISTRAL, '[TOOL_CALLS]get_weather{"city": "Rome"}[TOOL_CALLS]now{}', [WEATHER, ("now", {})], ""),
        (MISTRAL, "[TOOL_CALLS] nothing", [], "[TOOL_CALLS] nothing"),
        (MISTRAL, "[see below]", [], "[see below]"),
        (DEEPSEEK, '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Rome"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>', [WEATHER], ""),
        (FUNCTION, '<function=get_weather>{"city": "Rome"}</function>', [WEATHER], ""),
        (GO.replace("TAG", "[TOOL_CALL] ["), f"[TOOL_CALL] [{JSON_CALL}, {JSON_CALL}]", [WEATHER] * 2, ""),
        (GO.replace("TAG", "[TOOL_CALL]"), f"[TOOL_CALL][{JSON_CALL}]", [WEATHER], ""),
        (GO.replace("TAG", "{"), JSON_CALL, [WEATHER], ""),
        (GO.replace("TAG", "Action: ```json"), f"Hm.\nAction: ```json\n{JSON_CALL}\n```", [WEATHER], "Hm.\n"),
    ],
)  # fmt: skip
def test_calls_are_found_in_the_ways_that_models_write_them(
    template: str, output: str, expected: list[tuple[str, dict[str, object]]], text: str
) -> None:
    for pieces in ([output], list(output)):
        parsed = read(parser(template), *pieces)
        assert (calls(parsed), parsed.text) == (expected, text)


def test_without_tools_nothing_is_a_call() -> None:
    output = f"<tool_call>{JSON_CALL}</tool_call>"
    assert read(parser(HERMES, tools=False), output) == Parsed(output)
    assert read(parser(LLAMA, tools=False), JSON_CALL) == Parsed(JSON_CALL)


def test_text_is_not_held_back_longer_than_needed() -> None:
    stream = parser(HERMES)
    assert stream.feed("Hello").text == "Hello"
    assert stream.feed(" <to").text == " "
    assert stream.feed("day>").text == "<today>"


def test_ids_of_calls_differ_within_a_reply_and_between_replies_and_return_on_resuming() -> None:
    output = f"<tool_call>{JSON_CALL}</tool_call>" * 2
    first, again = read(parser(HERMES), output), read(parser(HERMES), *output)
    other = read(parser(HERMES, begun="x"), output)
    ids = [call.id for call in first.tool_calls]
    assert ids == [call.id for call in again.tool_calls]
    assert len({*ids, *(call.id for call in other.tool_calls)}) == 4


def test_the_texts_to_be_shown_are_named() -> None:
    assert parser(HERMES).markers == ("<think>", "</think>", "<tool_call>", "</tool_call>")
    assert parser(MISTRAL).markers == ("[TOOL_CALLS]",)
    assert parser(MISTRAL, tools=False).markers == ()


fragments = st.sampled_from(
    [
        "<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", JSON_CALL, "{", "}", "[", "]",
        '"', "\\", ",", ";", " ", "\n", "x", "get", "_weather", '{"name": "now", "arguments": {}}', "<", "/", "<function=now>",
        "</function>", "<parameter=city>", "</parameter>",
    ]
)  # fmt: skip


@given(
    parts=st.lists(fragments, max_size=14),
    template=st.sampled_from([HERMES, OPENS, LLAMA, MISTRAL, FUNCTION, GO.replace("TAG", "Action: ```json")]),
    think=st.sampled_from([None, False]),
    cuts=st.lists(st.integers(0, 200), max_size=12),
)
def test_how_the_output_is_cut_does_not_matter(parts: list[str], template: str, think: Think, cuts: list[int]) -> None:
    output = "".join(parts)
    edges = sorted({0, len(output), *(cut for cut in cuts if cut < len(output))})
    pieces = [output[a:b] for a, b in itertools.pairwise(edges)]
    whole = read(parser(template, think=think), output)
    assert read(parser(template, think=think), *pieces) == whole
    assert read(parser(template, think=think), *output) == whole


@given(parts=st.lists(fragments, max_size=14), template=st.sampled_from([HERMES, LLAMA, MISTRAL]))
def test_nothing_is_lost_where_nothing_is_called(parts: list[str], template: str) -> None:
    output = "".join(parts)
    parsed = read(parser(template, begun="It"), output)
    if not parsed.tool_calls:
        assert parsed.text == output
