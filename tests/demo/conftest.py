"""The built-in model as its files lie in the package, and a plain llama.cpp to run it with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from llama_cpp import Llama

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL_TYPE = "application/vnd.ollama.image.model"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@dataclass(frozen=True)
class BuiltinStore:
    """The read-only store that ships with the package."""

    root: Path
    manifest: dict[str, Any] = field(default_factory=dict)

    def blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest.replace(":", "-")

    def layer(self, media_type: str) -> Path:
        (found,) = (layer for layer in self.manifest["layers"] if layer["mediaType"] == media_type)
        return self.blob(found["digest"])


@pytest.fixture(scope="session")
def store() -> BuiltinStore:
    root = REPOSITORY / "registry" / "builtin"
    manifest = root / "manifests" / "registry.ollama.ai" / "library" / "demo" / "latest"
    return BuiltinStore(root, json.loads(manifest.read_bytes()))


@pytest.fixture(scope="session")
def llama(store: BuiltinStore) -> Llama:
    return Llama(str(store.layer(MODEL_TYPE)), n_ctx=2048, n_threads=2, verbose=False)


Render = Callable[..., str]


@pytest.fixture(scope="session")
def render(llama: Llama) -> Render:
    """The model's own chat template, in an environment such as servers use for templates."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(llama.metadata["tokenizer.chat_template"])

    def render_messages(messages: list[dict[str, Any]], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        return str(template.render(messages=messages, add_generation_prompt=add_generation_prompt, **variables))

    return render_messages


Answer = Callable[..., str]


@pytest.fixture(scope="session")
def answer(llama: Llama, render: Render) -> Answer:
    """Ask the model at temperature 0; it must stop by itself within 600 tokens."""

    def ask(*messages: str | dict[str, Any], **variables: Any) -> str:
        turns = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
        tokens = llama.tokenize(render(turns, **variables).encode(), add_bos=False, special=True)
        said: list[int] = []
        for token in llama.generate(tokens, temp=0.0):
            if token == llama.token_eos():
                return str(llama.detokenize(said, special=True), "utf-8")
            said.append(token)
            assert len(said) <= 600, "it does not stop"
        raise AssertionError("unreachable")

    return ask
