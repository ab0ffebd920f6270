from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from registry import GgufFacts, capabilities_of, is_go_template, read_gguf_facts
from tests.support.tiny_gguf import write_tiny_bert, write_tiny_llama

GO_ALL = "{{ if .Suffix }}x{{ end }}{{- range .Messages }}{{ .Thinking }}{{ range $.Tools }}{{ . }}{{ end }}{{ end }}"


@pytest.fixture(scope="module")
def facts(tiny: Path) -> GgufFacts:
    return read_gguf_facts(tiny)


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        (None, ("completion",)),
        ("", ("completion",)),
        ("{{ .System }} about .Tools {{ .Prompt }}", ("completion",)),
        (GO_ALL, ("completion", "tools", "insert", "thinking")),
        ("{% if tools %}{{ tools|tojson }}{% endif %}", ("completion", "tools")),
        ("{{ m.content.split('</think>')[-1] }}{% x %}", ("completion", "thinking")),
        ("{% x %}<think>{{ m }}</think>{{ m.tool_call }}", ("completion", "tools", "thinking")),
    ],
)
def test_a_template_can_do_what_it_names(facts: GgufFacts, template: str | None, capabilities: tuple[str, ...]) -> None:
    assert capabilities_of(facts, template=template) == capabilities


def test_the_template_in_the_file_counts_where_the_modelfile_has_none(facts: GgufFacts) -> None:
    thinking = msgspec.structs.replace(facts, chat_template="{% x %}<think></think>{{ tools }}")
    assert capabilities_of(thinking, template=None) == ("completion", "tools", "thinking")
    assert capabilities_of(thinking, template="{{ .Prompt }}") == ("completion",)


def test_a_vocabulary_for_filling_in_can_insert(tmp_path: Path) -> None:
    facts = read_gguf_facts(write_tiny_llama(tmp_path / "fim.gguf", layers=1, fill_in_middle=True))
    assert capabilities_of(facts, template=None) == ("completion", "insert")


def test_models_that_pool_embed_and_nothing_else(tmp_path: Path) -> None:
    bert = read_gguf_facts(write_tiny_bert(tmp_path / "bert.gguf"))
    pooled = read_gguf_facts(write_tiny_llama(tmp_path / "pooled.gguf", layers=1, pooling="last"))
    assert capabilities_of(bert, template="{{ .Prompt }}") == ("embedding",)
    assert capabilities_of(pooled, template=None) == ("embedding",)


def test_a_projector_sees_and_declared_capabilities_stay(facts: GgufFacts) -> None:
    found = capabilities_of(facts, template=None, has_projector=True, declared=["tools"])
    assert found == ("tools", "completion", "vision")


@pytest.mark.parametrize(
    ("template", "is_go"),
    [
        ("{{ .Prompt }}", True),
        ("{{- if .System }}{{ end }}", True),
        ("{{ range $i, $_ := .Messages }}{{ end }}", True),
        ("{{ messages[0].content }}", False),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", False),
        ("plain", False),
    ],
)
def test_go_and_jinja_templates_are_told_apart(template: str, is_go: bool) -> None:
    assert is_go_template(template) is is_go
