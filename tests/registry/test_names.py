from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import Digest, InvalidDigest, InvalidModelName, ModelName

PART_80 = "8" * 80
PART_350 = "3" * 350
FIRST = "abcXYZ019_"
model_parts = st.text(FIRST + "-.", max_size=79).flatmap(lambda rest: st.sampled_from(FIRST).map(lambda c: c + rest))
namespaces = model_parts.filter(lambda part: "." not in part)
hosts = st.text(FIRST + "-.:", max_size=349).flatmap(lambda rest: st.sampled_from(FIRST).map(lambda c: c + rest))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mistral", ("registry.ollama.ai", "library", "mistral", "latest")),
        ("mistral:7b", ("registry.ollama.ai", "library", "mistral", "7b")),
        ("me/mistral", ("registry.ollama.ai", "me", "mistral", "latest")),
        ("host/me/mistral", ("host", "me", "mistral", "latest")),
        ("host:80/me/mistral", ("host:80", "me", "mistral", "latest")),
        ("host:80/me/mistral:7b-v2.6-q6_K", ("host:80", "me", "mistral", "7b-v2.6-q6_K")),
        ("https://host:80/me/mistral:7b", ("host:80", "me", "mistral", "7b")),
        ("_why/_the/_lucky:_stiff", ("_why", "_the", "_lucky", "_stiff")),
        ("h/n/m:t", ("h", "n", "m", "t")),
        (f"{PART_350}/{PART_80}/{PART_80}:{PART_80}", (PART_350, PART_80, PART_80, PART_80)),
        ("hf.co/bartowski/Llama-3.2-1B-GGUF:Q8_0", ("hf.co", "bartowski", "Llama-3.2-1B-GGUF", "Q8_0")),
    ],
)
def test_names_parse_as_ollama_parses_them(text: str, parts: tuple[str, str, str, str]) -> None:
    assert ModelName.parse(text).parts == parts


@pytest.mark.parametrize(
    "text",
    [
        *("", "^", "mm:", ":t", "/nn/mm", "//", "//mm", "hh//", "//mm:@", "00@", "@", "m@d", "a b", "ä", "m\n", "m\0"),
        *("-hh/nn/mm:tt", "hh/-nn/mm:tt", "hh/nn/-mm:tt", "hh/nn/mm:-tt", "host/name:space/model:tag", "h/n.n/m"),
        *("..", "../m", "a/../m", "../../etc/passwd", "a/b/c/d", ".hidden", "m:..", "m:.t"),
        *("1" + PART_80, "m:1" + PART_80, f"1{PART_80}/m", f"1{PART_350}/n/m"),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidModelName) as caught:
        ModelName.parse(text)
    assert caught.value.text.startswith(text[:100])


@pytest.mark.parametrize(
    ("text", "shortest"),
    [
        ("registry.ollama.ai/library/model:latest", "model:latest"),
        ("REGISTRY.ollama.ai/LIBRARY/Model:Tag", "Model:Tag"),
        ("registry.ollama.ai/me/model", "me/model:latest"),
        ("host/library/model:tag", "host/library/model:tag"),
    ],
)
def test_a_name_shows_in_its_shortest_form(text: str, shortest: str) -> None:
    assert str(ModelName.parse(text)) == shortest


@given(host=hosts, namespace=namespaces, model=model_parts, tag=model_parts)
def test_every_valid_name_survives_being_written_and_read(host: str, namespace: str, model: str, tag: str) -> None:
    name = ModelName(host, namespace, model, tag)
    assert ModelName.parse(name.full).parts == name.parts
    assert ModelName.parse(str(name)) == name
    assert ".." not in name.parts


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_is_refused(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidModelName:
        return
    assert all(part and "/" not in part and not part.startswith(".") for part in name.parts)


def test_names_that_differ_in_case_are_the_same_model() -> None:
    assert ModelName.parse("Mistral:7B") == ModelName.parse("mistral:7b")
    assert len({ModelName.parse("Mistral:7B"), ModelName.parse("mistral:7b")}) == 1
    assert ModelName.parse("mistral") != ModelName.parse("mistral:7b")


def test_a_digest_reads_both_spellings_and_writes_one() -> None:
    digest = Digest.of(b"abc")
    assert str(digest) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Digest.parse(str(digest)) == Digest.parse(f"sha256-{digest.hex.upper()}") == digest


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "g" * 64, "sha512:" + "0" * 64, "sha256:../" + "0" * 61, "sha256:" + "0" * 65]
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigest):
        Digest.parse(text)
