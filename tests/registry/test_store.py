from __future__ import annotations

import json
import logging
import os
import resource
import time
from pathlib import Path

import pytest

from registry import (
    BlobNotFound,
    BuiltinModel,
    ChatTurn,
    CorruptBlob,
    Digest,
    InvalidGguf,
    InvalidManifest,
    InvalidParameter,
    Modelfile,
    ModelfileError,
    ModelName,
    ModelNotFound,
    ModelStore,
    Recipe,
    StorageFull,
    UnsupportedModel,
)
from tests.support.tiny_gguf import write_tiny_llama


def name(text: str) -> ModelName:
    return ModelName.parse(text)


def names(store: ModelStore) -> list[str]:
    return sorted(str(model.name) for model in store.list())


def manifest_path(store: ModelStore, text: str) -> Path:
    return store.root.joinpath("manifests", *name(text).parts)


def from_text(text: str, base: Path) -> Recipe:
    return Recipe.from_modelfile(Modelfile.parse(text), base)


MODELFILE = """
FROM ./tiny.gguf
ADAPTER {adapter}
TEMPLATE "{{{{ .Prompt }}}}"
SYSTEM You are tiny.
PARAMETER temperature 0.5
PARAMETER stop <|im_end|>
PARAMETER stop "User: "
LICENSE MIT
LICENSE "two
lines"
MESSAGE user Hi
MESSAGE assistant Hello
REQUIRES v0.14.0
"""


def test_a_model_is_made_of_a_modelfile_and_comes_back_from_it(store: ModelStore, tiny: Path, adapter: Path) -> None:
    said: list[str] = []
    recipe = from_text(MODELFILE.format(adapter=adapter), tiny.parent)
    model = store.create(name("Me/Tiny:v1"), recipe, said.append)
    assert str(model.name) == "Me/Tiny:v1"
    assert model.weights.read_bytes() == tiny.read_bytes()
    assert [path.read_bytes() for path in model.adapters] == [adapter.read_bytes()]
    assert (model.projector, model.parent) == (None, "")
    assert (model.template, model.system, model.requires) == ("{{ .Prompt }}", "You are tiny.", "0.14.0")
    assert model.parameters == {"temperature": 0.5, "stop": ["<|im_end|>", "User: "]}
    assert model.licenses == ("MIT", "two\nlines")
    assert model.messages == (ChatTurn("user", "Hi"), ChatTurn("assistant", "Hello"))
    assert model.facts().block_count == 1
    assert model.capabilities() == ("completion",)
    assert abs(time.time() - model.modified_at.timestamp()) < 60
    assert {"parsing GGUF", "writing manifest"} <= set(said)
    assert model.size_bytes == sum(store.blobs.size(digest) for digest in store.blobs)

    again = store.create(name("again"), from_text(model.modelfile(), Path("/")))
    assert again.digest == model.digest.__class__.of(manifest_path(store, "again").read_bytes())
    assert (again.template, again.system, again.parameters) == (model.template, model.system, model.parameters)
    assert (again.licenses, again.messages, again.requires) == (model.licenses, model.messages, model.requires)
    assert (again.weights, again.adapters) == (model.weights, model.adapters)


def test_the_files_are_those_that_ollama_writes(store: ModelStore, tiny: Path) -> None:
    store.create(name("m"), Recipe(source=[tiny], system="hi", parameters={"stop": ["a"]}))
    manifest = json.loads(manifest_path(store, "m").read_bytes())
    digests = {layer["mediaType"].rpartition(".")[2]: layer["digest"] for layer in manifest["layers"]}
    assert (manifest["schemaVersion"], set(digests)) == (2, {"model", "system", "params"})
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert manifest["layers"][0]["size"] == tiny.stat().st_size
    config = json.loads(store.blobs.read(Digest.parse(manifest["config"]["digest"])))
    assert config == {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "107K",
        "file_type": "F32",
        "architecture": "amd64",
        "os": "linux",
    }
    assert json.loads(store.blobs.read(Digest.parse(digests["params"]))) == {"stop": ["a"]}


def test_models_share_weights_unless_what_a_runner_holds_of_them_differs(
    store: ModelStore, tiny: Path, adapter: Path
) -> None:
    def digest(called: str, more: str = "") -> Digest:
        return store.create(name(called), from_text(f"FROM {tiny}\n{more}\n", tiny.parent)).weights_digest

    base = digest("base")
    assert digest("kind", "SYSTEM Be kind.\nPARAMETER temperature 0\nLICENSE none\nMESSAGE user hi") == base
    others = {digest("own", "TEMPLATE {{ .Prompt }}"), digest("tuned", f"ADAPTER {adapter}"), base}
    assert len(others) == 3


def test_a_model_is_made_of_uploaded_blobs(store: ModelStore, tiny: Path, adapter: Path) -> None:
    files = {"model.gguf": store.blobs.put_file(tiny)}
    adapters = {"lora.gguf": store.blobs.put_file(adapter)}
    model = store.create(name("m"), Recipe(source=files, adapters=adapters))
    assert (model.weights, len(model.adapters)) == (store.blobs.path(files["model.gguf"]), 1)


def test_a_model_is_made_of_another_with_changes(store: ModelStore, tiny: Path) -> None:
    base = Recipe(
        source=[tiny],
        system="old",
        template="old",
        parameters={"temperature": 0.1, "top_k": 5},
        licenses=("MIT",),
        messages=(ChatTurn("user", "old"),),
        requires="0.1.0",
        renderer="r",
    )
    store.create(name("base"), base)
    kept = store.create(name("kept"), Recipe(source=name("BASE")))
    assert (kept.system, kept.template, kept.requires, kept.parent) == ("old", "old", "0.1.0", "base:latest")
    assert (kept.parameters, kept.messages) == ({"temperature": 0.1, "top_k": 5}, (ChatTurn("user", "old"),))
    assert kept.config.renderer == "r"
    changes = Recipe(
        source=name("base"),
        system="new",
        template="new",
        parameters={"temperature": 0.9, "stop": ["x"]},
        licenses=("BSD",),
        messages=(ChatTurn("user", "new"),),
        requires="v0.2",
    )
    new = store.create(name("new"), changes)
    assert (new.system, new.template, new.requires) == ("new", "new", "0.2")
    assert new.parameters == {"temperature": 0.9, "top_k": 5, "stop": ["x"]}
    assert (new.licenses, new.messages) == (("MIT", "BSD"), (ChatTurn("user", "new"),))
    assert new.weights == kept.weights


def test_what_no_model_can_be_made_of_is_refused(store: ModelStore, tiny: Path, adapter: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.read_bytes()[:1000])
    shard = write_tiny_llama(tmp_path / "shard.gguf", layers=1, extra={"split.count": 3, "split.no": 0})
    missing = Digest.of(b"missing")
    refused: list[tuple[Recipe, type[Exception], str]] = [
        (Recipe(source=name("nobody")), ModelNotFound, "model 'nobody:latest' not found"),
        (Recipe(source={"m.gguf": missing}), BlobNotFound, str(missing)),
        (Recipe(source=[broken]), InvalidGguf, "truncated"),
        (Recipe(source=[shard]), UnsupportedModel, "split over 3 files"),
        (Recipe(source=[tiny, tiny]), UnsupportedModel, "more than one model"),
        (Recipe(source=[adapter]), UnsupportedModel, "no model among the files"),
        (Recipe(source=[]), UnsupportedModel, "no model among the files"),
        (Recipe(source=[tiny], adapters=[tiny]), UnsupportedModel, "of type 'model'"),
        (Recipe(source=[tiny], quantize="q4_K_M"), UnsupportedModel, "quantize is not supported"),
        (Recipe(source=[tiny], parameters={"num_ctx": "many"}), InvalidParameter, "must be an integer"),
        (Recipe(source=[tiny], requires="soon"), UnsupportedModel, "valid version"),
    ]
    for recipe, error, message in refused:
        with pytest.raises(error, match=message):
            store.create(name("m"), recipe)
    assert store.list() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM ./none.gguf", r"\(line 1\): no such file: .*/none.gguf"),
        ("FROM x\nADAPTER none.gguf", r"\(line 2\): no such file: .*/none.gguf"),
        ("FROM x\nREQUIRES soon", r"\(line 2\): requires must be a valid version"),
        ("FROM x\nFROM y", "name one model, or files"),
        ("FROM x\nDRAFT y", r"\(line 2\): DRAFT is not supported"),
        ("FROM x\nPARAMETER colour red", r"\(line 2\): unknown parameter 'colour'"),
        ("FROM ./weights.bin", r"\(line 1\): .*not in GGUF format"),
        ("FROM ./hf", r"\(line 1\): .*safetensors"),
        ("FROM ./empty", r"\(line 1\): no GGUF file in"),
    ],
)
def test_what_a_modelfile_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "weights.bin").write_bytes(b"PK\x03\x04")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "model.safetensors").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelfileError, match=message):
        from_text(text, tmp_path)


def test_from_may_name_a_folder_or_a_home_or_a_model(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert from_text(f"FROM {tiny.parent}", Path("/")).source == (tiny,)
    assert from_text("FROM ~/tiny.gguf", Path("/")).source == (tiny,)
    assert from_text("FROM me/x:y", Path("/")).source == name("me/x:y")


def test_names_are_found_in_any_case_and_keep_the_first_one(store: ModelStore, tiny: Path) -> None:
    store.create(name("Tiny"), Recipe(source=[tiny]))
    assert str(store.resolve(name("tINY:LATEST")).name) == "Tiny:latest"
    store.create(name("tiny"), Recipe(source=name("TINY"), system="second"))
    assert names(store) == ["Tiny:latest"]
    assert store.resolve(name("tiny")).system == "second"


def test_replacing_a_model_frees_what_only_the_old_one_needed(store: ModelStore, tiny: Path) -> None:
    old = store.create(name("m"), Recipe(source=[tiny], system="old"))
    store.create(name("m"), Recipe(source=name("m"), system="new"))
    assert store.blobs.has(old.weights_layer.digest)
    assert not store.blobs.has(Digest.of(b"old"))


def test_deleting_removes_only_what_nothing_else_references(store: ModelStore, tiny: Path) -> None:
    store.create(name("a"), Recipe(source=[tiny], system="shared"))
    store.copy(name("a"), name("elsewhere.example/b/b:1"))
    store.create(name("c"), Recipe(source=name("a"), system="own"))
    store.delete(name("c"))
    assert not store.blobs.has(Digest.of(b"own"))
    store.delete(name("A"))
    kept = store.resolve(name("elsewhere.example/b/b:1"))
    assert (kept.system, kept.weights.exists()) == ("shared", True)
    store.delete(kept.name)
    assert (names(store), list(store.blobs)) == ([], [])
    assert list((store.root / "manifests").iterdir()) == []
    with pytest.raises(ModelNotFound):
        store.delete(name("a"))


def test_a_blob_uploaded_again_outlives_the_model_that_had_it(store: ModelStore, tiny: Path) -> None:
    store.create(name("a"), Recipe(source=[tiny]))
    weights = store.resolve(name("a")).weights_layer.digest
    time.sleep(0.02)  # a file system's clock is coarse
    assert store.blobs.claim(weights)  # what HEAD /api/blobs does for a client that is about to create a model
    store.delete(name("a"))
    assert store.create(name("b"), Recipe(source={"m": weights})).weights.exists()


def test_pruning_spares_young_blobs_and_unknown_files(store: ModelStore, tiny: Path) -> None:
    store.create(name("a"), Recipe(source=[tiny]))
    needed = list(store.blobs)
    young, old = store.blobs.put(b"young"), store.blobs.put(b"old")
    os.utime(store.blobs.path(old), (0, 0))
    other = store.blobs.directory / "notes.txt"
    other.write_text("mine")
    assert store.prune() == (old,)
    assert list(store.blobs) == sorted([*needed, young])
    assert store.prune(grace_s=-1) == (young,)
    assert other.exists()


def test_copying_needs_a_source_and_replaces_the_target(store: ModelStore, tiny: Path) -> None:
    with pytest.raises(ModelNotFound):
        store.copy(name("a"), name("b"))
    store.create(name("a"), Recipe(source=[tiny], system="a"))
    store.create(name("b"), Recipe(source=[tiny], system="b"))
    store.copy(name("a"), name("a"))
    store.copy(name("a"), name("b"))
    assert store.resolve(name("b")).digest == store.resolve(name("a")).digest
    assert not store.blobs.has(Digest.of(b"b"))


def test_a_full_disk_is_told_and_leaves_the_models_as_they_were(store: ModelStore, tiny: Path) -> None:
    store.create(name("a"), Recipe(source=[tiny]))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))  # no room for a manifest
    try:
        with pytest.raises(StorageFull) as caught:
            store.copy(name("a"), name("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.needed_bytes > 64
    assert names(store) == ["a:latest"]
    assert [path for path in (store.root / "manifests").rglob("*") if path.is_file()] == [manifest_path(store, "a")]


def test_the_latest_change_is_listed_first(store: ModelStore, tiny: Path) -> None:
    for number, text in enumerate(["a", "b", "c"]):
        store.create(name(text), Recipe(source=[tiny]))
        os.utime(manifest_path(store, text), (number % 2, number % 2))
    assert [model.name.model for model in store.list()] == ["b", "a", "c"]


def test_a_built_in_model_is_listed_and_can_not_be_deleted(layered: ModelStore) -> None:
    assert names(layered) == ["demo:latest"]
    demo = layered.resolve(name("Demo"))
    assert (demo.builtin, demo.system, demo.facts().block_count) == (True, "You are the demo.", 1)
    with pytest.raises(BuiltinModel, match="is built in and can't be deleted"):
        layered.delete(name("demo"))
    assert list(layered.blobs) == []


def test_a_built_in_model_is_copied_whole(layered: ModelStore, tmp_path: Path, cache_dir: Path) -> None:
    layered.copy(name("demo"), name("mine"))
    layered.create(name("loud"), Recipe(source=name("demo"), system="LOUD"))
    alone = ModelStore(layered.root, cache_dir=cache_dir, builtin=tmp_path / "none")
    assert names(alone) == ["loud:latest", "mine:latest"]
    assert alone.resolve(name("mine")).weights.is_relative_to(layered.root)
    assert alone.resolve(name("loud")).parent == "demo:latest"
    assert all(finding.kind == "sound" for finding in alone.verify())


def test_a_users_model_shadows_the_built_in_until_it_is_deleted(layered: ModelStore, tiny: Path) -> None:
    layered.create(name("DEMO"), Recipe(source=[tiny], system="mine"))
    assert [(model.builtin, model.system) for model in layered.list()] == [(False, "mine")]
    layered.delete(name("demo"))
    assert layered.resolve(name("demo")).builtin


def test_facts_are_read_once_for_a_file(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> ModelStore:
        return ModelStore(tmp_path / "models", cache_dir=tmp_path / "cache", builtin=tmp_path / "none")

    first = opened().create(name("m"), Recipe(source=[tiny])).facts()
    monkeypatch.setattr("registry.facts_cache.read_gguf_facts", None)
    assert opened().resolve(name("m")).facts() == first


def test_facts_of_many_models_are_read_together(
    store: ModelStore, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = write_tiny_llama(tmp_path / "sound.gguf", layers=1, seed=9)
    for text, path in (("a", tiny), ("b", sound), ("c", tiny)):
        store.create(name(text), Recipe(source=[path]))
    store.create(name("cut"), Recipe(source=[write_tiny_llama(tmp_path / "cut.gguf", layers=1, seed=8)]))
    with store.resolve(name("cut")).weights.open("r+b") as file:
        file.truncate(3000)
    cold = ModelStore(store.root, cache_dir=tmp_path / "cold", builtin=tmp_path / "none")
    cold.warm_facts(cold.list())
    with pytest.raises(InvalidGguf, match="truncated"):
        cold.resolve(name("cut")).facts()
    monkeypatch.setattr("registry.facts_cache.read_gguf_facts", None)
    assert [cold.resolve(name(text)).facts().block_count for text in "abc"] == [1, 1, 1]
    with pytest.raises(InvalidGguf, match="truncated"):  # told again without reading again
        cold.resolve(name("cut")).facts()


def test_a_cache_that_can_not_be_used_only_costs_time(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    store = ModelStore(tmp_path / "models", cache_dir=tmp_path / "cache", builtin=tmp_path / "none")
    assert store.create(name("m"), Recipe(source=[tiny])).facts().block_count == 1
    (tmp_path / "other" / "gguf-facts").mkdir(parents=True)
    (tmp_path / "other" / "gguf-facts" / "cache.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    other = ModelStore(tmp_path / "models", cache_dir=tmp_path / "other", builtin=tmp_path / "none")
    assert other.resolve(name("m")).facts().block_count == 1


def test_listing_reads_no_weights(store: ModelStore, tiny: Path) -> None:
    model = store.create(name("m"), Recipe(source=[tiny], system="hi"))
    for number in range(200):
        path = manifest_path(store, f"m{number}")
        path.parent.mkdir()
        path.write_bytes(manifest_path(store, "m").read_bytes())
    model.weights.unlink()
    started = time.process_time()
    listed = [(str(model.name), model.size_bytes, model.config.file_type) for model in store.list()]
    assert time.process_time() - started < 2  # 20 ms here
    assert len(listed) == 201
    assert {kind for _, _, kind in listed} == {"F32"}


# What may lie in a models folder that has been in use since 2023.


@pytest.fixture
def old_folder(store: ModelStore, tiny: Path) -> dict[str, bytes]:
    """A folder as several versions of Ollama left it; returns all its files."""
    store.create(name("good"), Recipe(source=[tiny], system="hi"))
    good = manifest_path(store, "good").read_bytes()
    weights = json.loads(good)["layers"][0]
    prompt = store.blobs.put(b"{{ .Prompt }}")
    old_weights = store.blobs.path(Digest.parse(weights["digest"]))
    old_weights.rename(old_weights.with_name(weights["digest"]))  # sha256:..., as in the first versions
    oldest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "", "digest": "", "size": 0},
        "layers": [
            weights,
            {"mediaType": "application/vnd.ollama.image.prompt", "digest": str(prompt), "size": 13},
            {"mediaType": "application/vnd.ollama.image.embed", "digest": str(prompt), "size": 13},
        ],
    }
    cloud = {"model_format": "", "remote_host": "https://ollama.com:443", "remote_model": "big"}
    cloud_digest = store.blobs.put(json.dumps(cloud).encode())
    files = {
        "oldest": json.dumps(oldest).encode(),
        "cloud": json.dumps({"config": {"digest": str(cloud_digest), "size": 9}, "layers": None}).encode(),
        "tensors": json.dumps(
            {
                "schemaVersion": 2,
                "config": {"mediaType": "x", "digest": str(cloud_digest), "size": 9},
                "layers": [{"mediaType": "application/vnd.ollama.image.tensor", "digest": str(prompt), "size": 1}],
            }
        ).encode(),
        "empty": b"",
        "garbage": os.urandom(100),
        "nested": b"[" * 100_000,
        "traversal": good.replace(b"sha256:", b"sha256:../../../"),
        "negative": good.replace(b'"size":', b'"size":-'),
        "huge": good.replace(b'"size":', b'"size":99999999999999999999'),
        "wrong": json.dumps({"layers": "none", "config": 7}).encode(),
        "bad-name/-tag": good,
        "no-tag-but-a-folder/latest/deeper": b"x",
    }
    for text, data in files.items():
        path = manifest_path(store, "good").parent.parent / text
        path = path if "/" in text else path / "latest"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (store.root / "manifests" / ".DS_Store").write_bytes(b"x")
    (manifest_path(store, "good").parent / ".DS_Store").write_bytes(b"x")
    (store.blobs.directory / "sha256-1234-partial-0").write_bytes(b"half a download")
    return all_files(store.root)


def all_files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_old_ollama_folder_is_usable_as_it_is(
    store: ModelStore, old_folder: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert names(store) == ["cloud:latest", "good:latest", "oldest:latest", "tensors:latest"]
        logged = len(caplog.records)
        store.list()
    assert logged == len(caplog.records)  # once, not at every list
    assert all(word in caplog.text for word in ("empty", "garbage", "traversal", "negative", "huge", "wrong", "-tag"))
    oldest = store.resolve(name("oldest"))
    assert (oldest.template, oldest.config.file_type, oldest.facts().block_count) == ("{{ .Prompt }}", "", 1)
    assert store.resolve(name("good")).capabilities() == ("completion",)
    for text, reason in (("cloud", "lives on https://ollama.com:443"), ("tensors", "lives on")):
        with pytest.raises(UnsupportedModel, match=reason):
            store.resolve(name(text)).facts()
    with pytest.raises(InvalidManifest):
        store.resolve(name("garbage"))
    assert all_files(store.root) == old_folder


def test_working_in_an_old_folder_leaves_the_other_models_alone(
    store: ModelStore, old_folder: dict[str, bytes]
) -> None:
    store.create(name("new"), Recipe(source=name("oldest"), system="new"))
    store.delete(name("good"))
    store.delete(name("garbage"))
    store.delete(name("new"))
    gone = set(old_folder) - set(all_files(store.root))
    good, garbage = (f"manifests/registry.ollama.ai/library/{text}/latest" for text in ("good", "garbage"))
    assert gone == {good, garbage}  # broken manifests still mention the blobs of "good", so those stay
    assert store.resolve(name("oldest")).weights.exists()


def test_a_link_out_of_the_folder_is_neither_read_nor_written(store: ModelStore, tiny: Path, tmp_path: Path) -> None:
    store.create(name("good"), Recipe(source=[tiny]))
    outside = tmp_path / "outside"
    (outside / "m").mkdir(parents=True)
    (outside / "m" / "latest").write_bytes(manifest_path(store, "good").read_bytes())
    (store.root / "manifests" / "registry.ollama.ai" / "evil").symlink_to(outside)
    assert names(store) == ["good:latest"]
    for attempt in (
        lambda: store.resolve(name("evil/m")),
        lambda: store.delete(name("evil/m")),
        lambda: store.copy(name("good"), name("evil/m")),
        lambda: store.copy(name("good"), name("evil/new")),
    ):
        with pytest.raises(InvalidManifest, match="outside the models folder"):
            attempt()
    assert sorted(path.name for path in outside.rglob("*")) == ["latest", "m"]


def test_a_damaged_text_is_an_error_not_a_prompt(store: ModelStore, tiny: Path) -> None:
    store.create(name("m"), Recipe(source=[tiny], system="be kind"))
    store.blobs.path(Digest.of(b"be kind")).write_bytes(b"be evil")
    with pytest.raises(CorruptBlob):
        _ = store.resolve(name("m")).system


def test_verify_names_what_is_wrong(store: ModelStore, tiny: Path, adapter: Path) -> None:
    model = store.create(name("m"), Recipe(source=[tiny], adapters=[adapter], system="hi"))
    assert {finding.kind for finding in store.verify()} == {"sound"}
    orphan = store.blobs.put(b"orphan")
    (weights,) = [model.weights_layer.digest]
    with model.weights.open("r+b") as file:
        file.seek(1000)
        file.write(b"?")
    lost = Digest.of(b"hi")
    store.blobs.remove(lost)
    broken = manifest_path(store, "broken")
    broken.parent.mkdir()
    broken.write_bytes(b"{")
    findings = list(store.verify())
    found = {(finding.kind, finding.subject, finding.models) for finding in findings if finding.kind != "sound"}
    assert found == {
        ("orphaned", str(orphan), ()),
        ("corrupt", str(weights), (model.name,)),
        ("missing", str(lost), (model.name,)),
        ("unreadable", str(broken), (name("broken"),)),
    }
    assert {finding.kind for finding in findings if finding.is_damage} == {"corrupt", "missing", "unreadable"}
    assert findings[-1].done_bytes == findings[-1].total_bytes > 0
    assert all(finding.detail for finding in findings if finding.kind != "sound")


def test_a_size_that_is_not_the_manifests_is_damage(store: ModelStore, tiny: Path) -> None:
    model = store.create(name("m"), Recipe(source=[tiny]))
    path = manifest_path(store, "m")
    path.write_bytes(path.read_bytes().replace(b'"size":%d' % tiny.stat().st_size, b'"size":7'))
    (corrupt,) = [finding for finding in store.verify() if finding.is_damage]
    assert (corrupt.subject, "its manifest says 7" in corrupt.detail) == (str(model.weights_layer.digest), True)
