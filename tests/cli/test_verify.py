from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cli.scripted_node import Command


def put_blob(models: Path, data: bytes) -> dict[str, object]:
    name = sha256(data).hexdigest()
    (models / "blobs" / f"sha256-{name}").write_bytes(data)
    return {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{name}", "size": len(data)}


@pytest.fixture
def models(ayni: Command) -> Path:
    """A models folder with one sound model, "tiny"."""
    folder = ayni.home / ".ayni" / "models"
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    (folder / "blobs").mkdir(parents=True)
    manifest.parent.mkdir(parents=True)
    layer, config = put_blob(folder, b"GGUF weights"), put_blob(folder, b"{}")
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}))
    return folder


def test_a_sound_store_is_said_to_be_so(ayni: Command, models: Path) -> None:
    done = ayni("verify")
    assert done.returncode == 0
    assert done.stdout.endswith(f"in {models}: nothing damaged\n")
    assert len(done.stdout.splitlines()) == 1


def test_a_corrupt_file_is_named_with_its_model(ayni: Command, models: Path) -> None:
    name = sha256(b"GGUF weights").hexdigest()
    (models / "blobs" / f"sha256-{name}").write_bytes(b"GGUF weightz")
    done = ayni("verify")
    assert done.returncode == 1
    assert done.stdout.startswith(f"corrupt: sha256:{name}: its 12 bytes have the digest sha256:")
    assert "(used by tiny:latest)" in done.stdout
    assert done.stdout.endswith(": 1 damaged\n")


def test_a_missing_file_is_named(ayni: Command, models: Path) -> None:
    name = sha256(b"GGUF weights").hexdigest()
    (models / "blobs" / f"sha256-{name}").unlink()
    done = ayni("verify")
    assert done.returncode == 1
    assert f"missing: sha256:{name}:" in done.stdout


def test_a_file_that_no_model_needs_is_no_damage(ayni: Command, models: Path) -> None:
    put_blob(models, b"left over")
    done = ayni("verify")
    assert done.returncode == 0
    assert done.stderr.startswith("1 of them belong to no model (ayni verify --prune ")


def test_pruning_removes_what_no_model_needs_but_nothing_that_was_just_written(ayni: Command, models: Path) -> None:
    before = set((models / "blobs").iterdir())
    put_blob(models, b"just uploaded")
    put_blob(models, b"left over")
    os.utime(models / "blobs" / f"sha256-{sha256(b'left over').hexdigest()}", (0, 0))
    done = ayni("verify", "--prune")
    assert (done.returncode, done.stderr) == (0, "2 of them belong to no model; 1 removed\n")
    assert {path.name for path in set((models / "blobs").iterdir()) - before} == {
        f"sha256-{sha256(b'just uploaded').hexdigest()}"
    }


def test_an_empty_store_is_sound(ayni: Command) -> None:
    assert ayni("verify").returncode == 0
