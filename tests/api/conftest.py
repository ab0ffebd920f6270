"""The application in front of a scripted node, with a real store of tiny models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from api.app import create_app
from api.daemon import Daemon
from node.jobs import Delta
from node.settings import Settings
from registry import ModelName, ModelStore, Recipe
from tests.api.scripted_node import ScriptedNode
from tests.support.tiny_gguf import write_tiny_llama

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
TALENTED = TEMPLATE + "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think></think>{% endif %}"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelStore]:
    """Four models: plain; able (tools, thinking); embedder; filler (text between two others)."""
    folder = tmp_path_factory.mktemp("models")
    store = ModelStore(folder / "store", cache_dir=folder / "cache", builtin=folder / "none")
    plain = write_tiny_llama(folder / "plain.gguf", chat_template=TEMPLATE)
    able = write_tiny_llama(folder / "able.gguf", chat_template=TALENTED)
    embedder = write_tiny_llama(folder / "embedder.gguf", pooling="mean")
    parameters = {"temperature": 0.5, "stop": ["END"], "num_ctx": 32}
    recipe = Recipe(source=(plain,), system="Be brief.", parameters=parameters)
    store.create(ModelName.parse("plain"), recipe)
    store.create(ModelName.parse("able"), Recipe(source=(able,)))
    store.create(ModelName.parse("embedder"), Recipe(source=(embedder,)))
    filler = write_tiny_llama(folder / "filler.gguf", chat_template=TEMPLATE, fill_in_middle=True)
    store.create(ModelName.parse("filler"), Recipe(source=(filler,)))
    yield store
    store.close()


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    scripted.say(Delta(job="", text="Hel", tokens=(1,)), Delta(job="", text="lo", tokens=(2,)))
    return scripted


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        models_dir=tmp_path / "models",
        state_dir=tmp_path / "state",
        max_body_bytes=1 << 20,
        allowed_hosts=("node.example",),
        origins=("https://chat.example",),
    )


@pytest.fixture
async def http(models: ModelStore, node: ScriptedNode, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without a socket in between."""
    app = create_app(Daemon(store=models, node=node, settings=settings, version="0.0"))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434") as client:
        yield client
