"""Ollama's own Python client against the real daemon and the real engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import ollama
import pytest

from tests.e2e.daemon_process import DaemonProcess

USER = {"role": "user", "content": "Say something."}
FEW = {"num_predict": 8, "temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
}


def test_chat_streams_and_ends_with_the_figures(native: ollama.Client) -> None:
    parts = list(native.chat("tiny", messages=[USER], options=FEW, stream=True))
    *deltas, last = parts
    assert "".join(part.message.content or "" for part in deltas)
    assert not any(part.done for part in deltas)
    assert (last.done, last.done_reason, last.eval_count) == (True, "length", 8)
    assert last.prompt_eval_count
    assert last.total_duration
    assert last.eval_duration
    assert last.load_duration is not None


def test_the_same_request_gives_the_same_text_streamed_or_not(native: ollama.Client) -> None:
    whole = native.chat("tiny", messages=[USER], options=FEW).message.content
    streamed = [part.message.content or "" for part in native.chat("tiny", messages=[USER], options=FEW, stream=True)]
    assert whole == "".join(streamed)


async def test_the_async_client_streams_too(daemon: DaemonProcess) -> None:
    client = ollama.AsyncClient(host=daemon.url)
    text = ""
    async for part in await client.chat("tiny", messages=[USER], options=FEW, stream=True):
        text += part.message.content or ""
    whole = await client.chat("tiny", messages=[USER], options=FEW)
    assert text == whole.message.content


def test_generate_continues_from_its_context(native: ollama.Client) -> None:
    first = native.generate("tiny", "One", options=FEW)
    assert first.context
    second = native.generate("tiny", "Two", context=first.context, options=FEW)
    assert second.context
    assert list(second.context)[: len(first.context)] == list(first.context)
    assert (second.prompt_eval_count or 0) > (first.prompt_eval_count or 0)


def test_raw_generate_gives_the_prompt_as_it_is(native: ollama.Client) -> None:
    answer = native.generate("tiny", "1,2", raw=True, options=FEW)
    assert (answer.prompt_eval_count, answer.context, answer.eval_count) == (3, None, 8)


def test_a_suffix_is_filled_in(native: ollama.Client) -> None:
    answer = native.generate("filler", "def f():", suffix="return x", options=FEW)
    assert answer.eval_count == 8


def test_a_request_without_prompt_loads_and_keep_alive_0_unloads(native: ollama.Client) -> None:
    assert native.generate("able").done_reason == "load"
    assert "able:latest" in {model.model for model in native.ps().models}
    assert native.generate("able", keep_alive=0).done_reason == "unload"
    assert "able:latest" not in {model.model for model in native.ps().models}


def test_ps_says_what_is_loaded_and_for_how_long(native: ollama.Client) -> None:
    native.generate("filler", "x", options=FEW | {"num_predict": 1}, keep_alive="10m")
    [model] = [model for model in native.ps().models if model.model == "filler:latest"]
    assert (model.size or 0) > 0
    assert model.size_vram == 0
    assert model.expires_at
    assert model.expires_at.tzinfo
    assert model.context_length
    assert model.details
    assert model.details.family == "llama"


def test_json_and_schemas_are_always_met(native: ollama.Client) -> None:
    answers = [
        native.chat("tiny", messages=[USER], format=SCHEMA, options={"num_predict": 100, "seed": seed}).message.content
        for seed in range(3)
    ]
    for answer in answers:
        jsonschema.validate(json.loads(answer or ""), SCHEMA)


def test_logprobs_come_for_every_token(native: ollama.Client) -> None:
    answer = native.chat("tiny", messages=[USER], options=FEW, logprobs=True, top_logprobs=3)
    assert answer.logprobs
    assert len(answer.logprobs) == 8
    first = answer.logprobs[0]
    assert first.logprob <= 0
    assert first.top_logprobs
    assert len(first.top_logprobs) == 3
    assert first.top_logprobs[0].logprob >= first.top_logprobs[1].logprob


def test_stop_strings_end_the_answer_and_are_not_shown(native: ollama.Client) -> None:
    text = native.generate("tiny", "abc", raw=True, options=FEW).response
    stop = text[2]
    answer = native.generate("tiny", "abc", raw=True, options=FEW | {"stop": [stop]})
    assert answer.response == text[: text.index(stop)]
    assert answer.done_reason == "stop"


def test_debug_render_only_shows_the_templates_work(daemon: DaemonProcess) -> None:
    body = {"model": "tiny", "messages": [USER], "_debug_render_only": True, "stream": False}
    answer = httpx.post(f"{daemon.url}/api/chat", json=body, timeout=60).json()
    expected = "<|im_start|>user\nSay something.<|im_end|>\n<|im_start|>assistant\n"
    assert answer["_debug_info"]["rendered_template"] == expected


def test_embeddings_are_normalised_and_batched(native: ollama.Client) -> None:
    answer = native.embed("embedder", ["one", "two", "one"])
    first, second, third = answer.embeddings
    assert sum(number * number for number in first) == pytest.approx(1.0, abs=1e-3)
    assert first == pytest.approx(third, abs=1e-4)
    assert first != pytest.approx(second, abs=1e-4)
    assert answer.prompt_eval_count
    assert answer.load_duration is not None
    assert answer.total_duration is not None
    assert 0 < answer.load_duration < answer.total_duration
    assert len(native.embeddings("embedder", "one").embedding) == len(first)
    assert len(native.embed("embedder", "one", dimensions=4).embeddings[0]) == 4


def test_an_empty_input_embeds_nothing(native: ollama.Client) -> None:
    assert list(native.embed("embedder", []).embeddings) == []


def test_models_are_listed_shown_copied_and_deleted(native: ollama.Client) -> None:
    native.copy("tiny", "copied")
    names = {model.model for model in native.list().models}
    assert {"tiny:latest", "copied:latest"} <= names
    shown = native.show("copied")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo
    assert shown.modelinfo["llama.context_length"] == 1024
    assert shown.details
    assert (shown.details.format, shown.details.family) == ("gguf", "llama")
    native.delete("copied")
    assert "copied:latest" not in {model.model for model in native.list().models}
    with pytest.raises(ollama.ResponseError, match="model 'copied' not found") as caught:
        native.delete("copied")
    assert caught.value.status_code == 404


def test_a_model_is_made_from_another_and_from_an_uploaded_file(
    native: ollama.Client, model_files: dict[str, Path], tmp_path: Path
) -> None:
    statuses = [part.status for part in native.create("derived", from_="tiny", system="Be kind.", stream=True)]
    assert statuses[-1] == "success"
    assert native.show("derived").modelfile
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(model_files["tiny"].read_bytes() + b"\0" * 32)
    digest = native.create_blob(changed)
    made: Any = native.create(
        "uploaded",
        files={"changed.gguf": digest},
        template="{{ .Prompt }}",
        parameters={"num_predict": 3},
        messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        license="MIT",
    )
    assert made.status == "success"
    assert native.chat("uploaded", messages=[USER]).eval_count == 3
    shown = native.show("uploaded")
    assert (shown.template, shown.license) == ("{{ .Prompt }}", "MIT")
    for name in ("derived", "uploaded"):
        native.delete(name)


def test_an_unknown_model_is_404_in_ollamas_words(native: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        native.chat("nope", messages=[USER])
    assert caught.value.status_code == 404


def test_a_prompt_too_long_for_the_context_is_cut_or_refused(native: ollama.Client, daemon: DaemonProcess) -> None:
    many = [{"role": "user", "content": f"word {number} " * 10} for number in range(40)]
    assert native.chat("tiny", messages=many, options=FEW).eval_count == 8
    body = {"model": "tiny", "messages": many, "truncate": False, "stream": False}
    refused = httpx.post(f"{daemon.url}/api/chat", json=body, timeout=60)
    assert refused.status_code == 400
    assert "context" in refused.json()["error"]
