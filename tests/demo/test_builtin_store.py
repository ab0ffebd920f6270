from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.demo.conftest import MODEL_TYPE, BuiltinStore

MIB = 1 << 20


def every_layer(store: BuiltinStore) -> list[dict[str, Any]]:
    return [store.manifest["config"], *store.manifest["layers"]]


def test_every_blob_of_the_manifest_is_there_and_hashes_to_its_name(store: BuiltinStore) -> None:
    for layer in every_layer(store):
        data = store.blob(layer["digest"]).read_bytes()
        assert len(data) == layer["size"]
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer["digest"]


def test_the_store_holds_no_blob_that_the_manifest_does_not_name(store: BuiltinStore) -> None:
    named = {layer["digest"].replace(":", "-") for layer in every_layer(store)}
    assert {path.name for path in (store.root / "blobs").iterdir()} == named


def test_the_whole_model_stays_under_8_mib(store: BuiltinStore) -> None:
    assert sum(layer["size"] for layer in every_layer(store)) < 8 * MIB


def test_the_config_says_what_the_weights_are(store: BuiltinStore) -> None:
    config = json.loads(store.blob(store.manifest["config"]["digest"]).read_bytes())
    assert (config["model_format"], config["model_family"], config["file_type"]) == ("gguf", "llama", "Q8_0")
    assert store.layer(MODEL_TYPE).read_bytes()[:4] == b"GGUF"


def test_the_licence_is_the_projects(store: BuiltinStore) -> None:
    licence = store.layer("application/vnd.ollama.image.license").read_text(encoding="utf-8")
    assert licence.startswith("MIT License")


def test_the_parameters_stop_at_the_ends_of_turns(store: BuiltinStore) -> None:
    parameters = json.loads(store.layer("application/vnd.ollama.image.params").read_bytes())
    assert "<|im_end|>" in parameters["stop"]
    assert parameters["temperature"] == pytest.approx(0.2)
