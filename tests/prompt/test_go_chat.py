"""Ollama's way to run a Go template over a conversation."""

from __future__ import annotations

import pytest

from node.jobs import Infill, Message, ToolCall
from node.prompt import PromptTemplate, TemplateError
from tests.prompt.chats import NOW, assistant, chat, system, tool, user

OLD = (
    "{{ if .System }}<sys>{{ .System }}</sys>{{ end }}{{ if .Prompt }}[Q]{{ .Prompt }}[/Q]{{ end }}{{ .Response }}</s>"
)
NEW = """{{- range $i, $_ := .Messages }}<{{ .Role }}>{{ .Content }}
{{- range .ToolCalls }}<call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</call>{{ end -}}
</{{ .Role }}>{{ end }}<assistant>"""


def load(template: str | None) -> PromptTemplate:
    return PromptTemplate.load(template, None, bos="<s>", eos="</s>")


def test_an_old_template_is_run_once_per_exchange_and_cut_after_the_response() -> None:
    conversation = chat(system("S"), user("one"), assistant("two"), user("three"))
    assert load(OLD).render(conversation, now=NOW) == "<sys>S</sys>[Q]one[/Q]two</s>[Q]three[/Q]"


def test_an_old_template_leaves_a_begun_answer_open() -> None:
    assert load(OLD).render(chat(user("one"), assistant("tw")), now=NOW) == "[Q]one[/Q]tw"


def test_a_later_system_message_begins_a_new_exchange() -> None:
    assert (
        load(OLD).render(chat(user("one"), system("S"), user("two")), now=NOW) == "[Q]one[/Q]</s><sys>S</sys>[Q]two[/Q]"
    )


def test_a_response_in_a_branch_is_where_the_prompt_ends() -> None:
    template = "{{ .Prompt }}{{ if .Prompt }}: {{ .Response }} END{{ end }} after"
    assert load(template).render(chat(user("q")), now=NOW) == "q: "


def test_a_template_without_response_gets_it_at_its_end() -> None:
    assert load("{{ .Prompt }}\n").render(chat(user("q"), assistant("a"), user("r")), now=NOW) == "q\nar\n"


def test_without_any_template_the_prompt_is_the_text() -> None:
    assert load(None).render(chat(user("only this")), now=NOW) == "only this"


def test_a_new_template_sees_all_messages_those_of_a_role_in_a_row_as_one() -> None:
    prompt = load(NEW).render(chat(user("a"), user("b"), assistant("c")), now=NOW)
    assert prompt == "<user>a\n\nb</user><assistant>c</assistant><assistant>"


def test_results_of_tools_are_not_joined() -> None:
    results = [Message(role="tool", content=text, tool_name="f") for text in "xy"]
    assert (
        load("{{ range .Messages }}{{ .ToolName }}={{ .Content }};{{ end }}").render(chat(*results), now=NOW)
        == "f=x;f=y;"
    )


def test_arguments_are_sorted_json() -> None:
    call = ToolCall(name="f", arguments={"b": 1, "a": ["<"]})
    prompt = load(NEW).render(chat(assistant("", call)), now=NOW)
    assert '<call>{"name": "f", "arguments": {"a":["\\u003c"],"b":1}}</call>' in prompt


def test_tools_are_printed_in_the_shape_that_ollama_gives_them() -> None:
    template = "{{ range .Messages }}{{ end }}{{ range .Tools }}{{ . }}{{ end }}"
    definition = tool("f", b="integer", a="string")
    definition["function"]["strict"] = True
    definition["function"]["parameters"]["required"] = ["a"]
    assert load(template).render(chat(user("q"), tools=(definition,)), now=NOW) == (
        '{"type":"function","function":{"name":"f","description":"does it","parameters":{"type":"object",'
        '"required":["a"],"properties":{"a":{"type":"string"},"b":{"type":"integer"}}}}}'
    )


def test_types_of_parameters_can_be_written_as_typescript() -> None:
    template = (
        "{{ range .Messages }}{{ end }}{{ range .Tools }}{{ range $name, $p := .Function.Parameters.Properties }}"
        "{{ $name }}: {{ toTypeScriptType $p }}\n{{ end }}{{ end }}"
    )
    definition = tool("f")
    definition["function"]["parameters"]["properties"] = {
        "a": {"type": ["integer", "null"]},
        "b": {"anyOf": [{"type": "string"}, {"type": "array"}]},
        "c": {},
        "d": "no schema",
    }
    assert load(template).render(chat(user("q"), tools=(definition,)), now=NOW) == (
        "a: number | null\nb: string | any[]\nc: any\nd: any\n"
    )


@pytest.mark.parametrize("tools", [({},), ({"function": 3},), ({"function": {"parameters": {"properties": []}}},)])
def test_tools_of_any_shape_render(tools: tuple[dict[str, object], ...]) -> None:
    assert load("{{ .Messages }}{{ .Tools }}").render(chat(user("q"), tools=tools), now=NOW)


def test_no_tools_are_nil() -> None:
    assert (
        load("{{ range .Messages }}{{ end }}{{ if .Tools }}yes{{ else }}no{{ end }}").render(chat(user("q")), now=NOW)
        == "no"
    )


@pytest.mark.parametrize(
    ("think", "seen"), [(None, "true||true"), (True, "true||true"), (False, "false||true"), ("high", "true|high|true")]
)
def test_a_model_that_can_think_does_unless_told_otherwise(think: bool | str | None, seen: str) -> None:
    template = (
        "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}"
        "{{ .Think }}|{{ .ThinkLevel }}|{{ .IsThinkSet }}"
    )
    assert load(template).supports_thinking
    assert load(template).render(chat(user("q"), think=think), now=NOW) == seen


def test_a_model_that_cannot_think_is_not_asked_to() -> None:
    assert load("{{ .Messages }}{{ .Think }}{{ .IsThinkSet }}").render(chat(), now=NOW) == "[]falsefalse"


def test_text_between_two_others_takes_the_branch_for_suffixes() -> None:
    template = load("{{ if .Suffix }}<pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>{{ else }}{{ .Prompt }}{{ end }}")
    assert template.supports_infill
    assert template.render_infill(Infill(prefix="a", suffix="b")) == "<pre>a<suf>b<mid>"
    assert not load(OLD).supports_infill
    assert load(OLD).render_infill(Infill(prefix="a", suffix="b")) is None
    own = Infill(prefix="a", suffix="b", template="{{ .Suffix }}{{ .Prompt }}")
    assert load(OLD).render_infill(own) == "ba"


def test_a_request_may_bring_its_own_template() -> None:
    assert load(OLD).render(chat(user("q"), template="<{{ .Prompt }}>"), now=NOW) == "<q>"
    with pytest.raises(TemplateError):
        load(OLD).render(chat(user("q"), template="{{ .Prompt"), now=NOW)


def test_the_modelfile_comes_before_the_gguf() -> None:
    both = PromptTemplate.load(
        "own {{ .Prompt }}", "{% for m in messages %}{{ m.content }}{% endfor %}", bos="", eos=""
    )
    assert both.render(chat(user("q")), now=NOW) == "own q"


def test_a_malformed_template_is_refused_at_once() -> None:
    with pytest.raises(TemplateError, match="line 2"):
        load("x\n{{ if }}")
