"""A store in a fresh folder, a tiny model made once, and a built-in layer below."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import ModelName, ModelStore, Recipe
from tests.support.tiny_gguf import write_tiny_adapter, write_tiny_llama


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("gguf") / "tiny.gguf", layers=1)


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_adapter(tmp_path_factory.mktemp("gguf") / "adapter.gguf", layers=1)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests: it is by digest, so they can't disturb each other."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def builtin_template(tiny: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("builtin")
    maker = ModelStore(root, cache_dir=cache_dir, builtin=root / "none")
    maker.create(ModelName.parse("demo"), Recipe(source=[tiny], system="You are the demo."))
    maker.close()
    return root


@pytest.fixture
def store(tmp_path: Path, cache_dir: Path) -> Iterator[ModelStore]:
    """Empty, with no built-in model."""
    store = ModelStore(tmp_path / "models", cache_dir=cache_dir, builtin=tmp_path / "none")
    yield store
    store.close()


@pytest.fixture
def layered(tmp_path: Path, cache_dir: Path, builtin_template: Path) -> Iterator[ModelStore]:
    """Empty, above a built-in `demo`."""
    builtin = shutil.copytree(builtin_template, tmp_path / "builtin")
    store = ModelStore(tmp_path / "models", cache_dir=cache_dir, builtin=builtin)
    yield store
    store.close()
