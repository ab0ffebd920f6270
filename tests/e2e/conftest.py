"""One real daemon for most tests of this folder, with tiny models that the real engine loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ollama
import openai
import pytest

from registry import ModelName, ModelStore, Recipe
from tests.e2e.daemon_process import DaemonProcess, running_daemon
from tests.support.tiny_gguf import END_OF_TEXT, TURN_END, write_tiny_bert, write_tiny_llama

ABLE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n{% endif %}"
    "{% endif %}"
)


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GGUF files: tiny (generates), filler (between two texts), embedder."""
    folder = tmp_path_factory.mktemp("gguf")
    return {
        "tiny": write_tiny_llama(folder / "tiny.gguf", context=1024),
        "able": write_tiny_llama(folder / "able.gguf", chat_template=ABLE, seed=1),
        "filler": write_tiny_llama(folder / "filler.gguf", fill_in_middle=True, seed=2),
        "endless": write_endless_llama(folder / "endless.gguf"),
        "embedder": write_tiny_bert(folder / "embedder.gguf"),
    }


def write_endless_llama(path: Path) -> Path:
    """A tiny model that at temperature 0 never ends by itself: its end tokens have logit 0, and some other has more."""
    import gguf

    write_tiny_llama(path, seed=3, context=1 << 15)
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        if tensor.name == "output.weight":
            tensor.data[[END_OF_TEXT, TURN_END]] = 0
    return path


def make_models(home: Path, files: dict[str, Path]) -> None:
    """Create the models in the folder that a daemon with this home uses."""
    store = ModelStore(home / ".ayni" / "models", cache_dir=home / ".ayni" / "cache")
    for name, path in files.items():
        store.create(ModelName.parse(name), Recipe(source=(path,)))
    store.close()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, model_files: dict[str, Path]) -> Path:
    """A home folder with all models."""
    folder = tmp_path_factory.mktemp("home")
    make_models(folder, model_files)
    return folder


@pytest.fixture(scope="session")
def daemon(home: Path) -> Iterator[DaemonProcess]:
    """The daemon that most tests share."""
    settings = {"AYNI_MAX_BODY": "1MiB", "AYNI_ALLOWED_HOSTS": "node.example", "AYNI_CONTEXT_LENGTH": "256"}
    with running_daemon(home, settings=settings) as process:
        yield process


@pytest.fixture
def native(daemon: DaemonProcess) -> ollama.Client:
    """Ollama's own client."""
    return ollama.Client(host=daemon.url, timeout=60)


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made
