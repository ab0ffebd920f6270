"""Chats through Jinja templates in the styles of open models."""

from __future__ import annotations

import json

import pytest

from node.jobs import Infill, Message, ToolCall
from node.prompt import PromptTemplate, TemplateError
from tests.prompt.chats import NOW, assistant, chat, system, tool, user

CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.reasoning_content %}
        {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>' + call.function | tojson + '</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
STRICT = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]{% else %}
{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"""


def load(template: str) -> PromptTemplate:
    return PromptTemplate.load(None, template, bos="<s>", eos="</s>")


def test_blocks_leave_no_line_ends_behind() -> None:
    assert load(CHATML).render(chat(system("S"), user("q")), now=NOW) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    )


def test_special_tokens_are_there_as_text() -> None:
    prompt = load(STRICT).render(chat(user("a"), assistant("b"), user("c")), now=NOW)
    assert prompt == "<s>[INST] a [/INST]b</s>[INST] c [/INST]"


def test_a_template_may_refuse_messages_in_its_own_words() -> None:
    with pytest.raises(TemplateError, match=r"^Conversation roles must alternate user/assistant"):
        load(STRICT).render(chat(user("a"), user("b")), now=NOW)


def test_where_no_system_message_is_taken_it_joins_the_first_message() -> None:
    assert load(STRICT).render(chat(system("S"), user("a")), now=NOW) == "<s>[INST] S\na [/INST]"


def test_tools_and_calls_are_openais_with_arguments_as_objects() -> None:
    definition = tool("f", a="string")
    call = ToolCall(name="f", arguments={"a": "é<"}, id="1")
    prompt = load(CHATML).render(chat(user("q"), assistant("", call), tools=(definition,)), now=NOW)
    assert json.dumps(definition, ensure_ascii=False) in prompt
    assert '<tool_call>{"name": "f", "arguments": {"a": "é<"}}</tool_call>' in prompt
    assert load(CHATML).supports_tools


def test_a_template_that_adds_arguments_to_text_gets_them_as_text() -> None:
    template = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ '{' + c.function.arguments + '}' }}{% endfor %}"
        "{% endfor %}"
    )
    call = ToolCall(name="f", arguments={"a": 1})
    assert load(template).render(chat(assistant("", call), user("q")), now=NOW) == '{{"a": 1}}'


def test_a_template_that_counts_on_tools_gets_an_empty_list() -> None:
    template = "{% for t in tools %}{{ t }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert load(template).render(chat(user("q")), now=NOW) == "q"


def test_a_template_that_wants_parts_gets_parts() -> None:
    template = (
        "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' %}<{{ part.text }}>"
        "{% endif %}{% endfor %}{% endfor %}"
    )
    assert load(template).render(chat(system("S"), user("q")), now=NOW) == "<S><q>"


def test_thinking_is_on_unless_told_otherwise() -> None:
    assert load(CHATML).supports_thinking
    assert load(CHATML).render(chat(user("q"), think=False), now=NOW).endswith("<think>\n\n</think>\n\n")
    assert load(CHATML).render(chat(user("q")), now=NOW).endswith("assistant\n")


def test_a_level_of_thinking_is_passed_on_in_words_that_templates_know() -> None:
    template = "{% if true %}{{ enable_thinking }} {{ reasoning_effort }}{% endif %}"
    assert load(template).render(chat(user("q"), think="low"), now=NOW) == "True low"
    assert load(template).render(chat(user("q"), think="max"), now=NOW) == "True high"


def test_earlier_thinking_is_there_under_both_names() -> None:
    template = "{% for m in messages %}{{ m.thinking }}{{ m.reasoning_content }}{% endfor %}"
    assert load(template).render(chat(assistant("a", thinking="t"), user("q")), now=NOW) == "tt"


def test_a_begun_answer_is_left_open() -> None:
    assert load(CHATML).render(chat(user("q"), assistant("It is")), now=NOW).endswith("assistant\nIt is")


def test_a_begun_answer_follows_its_thinking() -> None:
    prompt = load(CHATML).render(chat(user("q"), assistant("It is", thinking="hm")), now=NOW)
    assert prompt.endswith("assistant\n<think>\nhm\n</think>\n\nIt is")


def test_a_begun_answer_closes_the_thinking_that_the_template_opens() -> None:
    template = load("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}")
    assert template.render(chat(user("q"), assistant("It is")), now=NOW) == "q<think>\n\n</think>\n\nIt is"


def test_a_message_of_calls_is_not_continued() -> None:
    prompt = load(CHATML).render(chat(user("q"), assistant("", ToolCall(name="f", arguments={}))), now=NOW)
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_tools_result_names_its_call() -> None:
    template = "{% for m in messages %}{{ m.role }} {{ m.name }} {{ m.tool_call_id }}{% endfor %}"
    message = Message(role="tool", content="1", tool_name="f", tool_call_id="c1")
    assert load(template).render(chat(message), now=NOW) == "tool f c1"


def test_the_date_is_the_one_given() -> None:
    assert (
        load("{% if true %}{{ strftime_now('%d %b %Y') }}{% endif %}").render(chat(user("q")), now=NOW) == "01 Mar 2025"
    )


def test_there_is_no_infill_in_jinja() -> None:
    assert not load(CHATML).supports_infill
    assert load(CHATML).render_infill(Infill(prefix="a", suffix="b")) is None


def test_rendering_changes_nothing_that_it_is_given() -> None:
    conversation = chat(system("S"), user("q"), tools=(tool("f", a="string"),))
    before = json.dumps(conversation.tools)
    load(CHATML).render(conversation, now=NOW)
    assert json.dumps(conversation.tools) == before


def test_long_conversations_are_within_the_bounds() -> None:
    messages = [user("x" * 2000) if n % 2 == 0 else assistant("y" * 2000) for n in range(1001)]
    assert len(load(CHATML).render(chat(*messages), now=NOW)) > 2_000_000
