"""A store with one tiny model, which every node of a test shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from registry import Model, ModelName, ModelStore, Recipe
from tests.support.tiny_gguf import write_tiny_llama


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelStore]:
    folder = tmp_path_factory.mktemp("models")
    store = ModelStore(folder / "store", cache_dir=folder / "cache", builtin=folder / "none")
    store.create(ModelName.parse("tiny"), Recipe(source=(write_tiny_llama(folder / "tiny.gguf"),)))
    yield store
    store.close()


@pytest.fixture
def model(store: ModelStore) -> Model:
    return store.resolve(ModelName.parse("tiny"))
