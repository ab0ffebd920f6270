from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

from registry import BlobNotFound, Digest, ModelName, ModelStore, Recipe

# Makes, copies and deletes models of one upload over and over; at the end only `<prefix>-kept` stays.
WORK = """
import sys
from pathlib import Path
from registry import ModelName, ModelStore, Recipe
prefix, root, cache, tiny = sys.argv[1:]
store = ModelStore(Path(root), cache_dir=Path(cache), builtin=Path(root) / "none")
name = ModelName.parse
for turn in range(25):
    files = {"tiny.gguf": store.blobs.put_file(Path(tiny))}
    store.create(name(f"{prefix}-a"), Recipe(source=files, system=f"{prefix} {turn}"))
    store.copy(name(f"{prefix}-a"), name(f"{prefix}-kept"))
    store.create(name("shared"), Recipe(source=name(f"{prefix}-kept"), system="shared"))
    store.delete(name(f"{prefix}-a"))
    assert store.resolve(name(f"{prefix}-kept")).weights.stat().st_size
    store.prune()
    store.list()
"""


def test_two_processes_change_one_folder_without_losing_a_blob(store: ModelStore, tiny: Path, cache_dir: Path) -> None:
    arguments = [str(store.root), str(cache_dir), str(tiny)]
    workers = [subprocess.Popen([sys.executable, "-c", WORK, prefix, *arguments]) for prefix in ("x", "y")]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    assert sorted(str(model.name) for model in store.list()) == ["shared:latest", "x-kept:latest", "y-kept:latest"]
    assert {finding.kind for finding in store.verify()} == {"sound"}
    for model in store.list():
        store.delete(model.name)
    assert list(store.blobs) == []


def test_threads_write_the_same_blob_and_all_succeed(store: ModelStore) -> None:
    payload = b"x" * 300_000
    digests: list[Digest] = []

    def write() -> None:
        with store.blobs.write(Digest.of(payload)) as writer:
            for start in range(0, len(payload), 10_000):
                writer.write(payload[start : start + 10_000])
            digests.append(writer.commit())

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [Digest.of(payload)] * 8
    assert [path.name for path in store.blobs.directory.iterdir()] == [f"sha256-{Digest.of(payload).hex}"]


def test_a_model_deleted_while_another_is_made_of_it_leaves_no_half_model(store: ModelStore, tiny: Path) -> None:
    name = ModelName.parse
    for turn in range(15):
        store.create(name("base"), Recipe(source=[tiny], system=f"base {turn}"))
        deleting = threading.Thread(target=store.delete, args=(name("base"),))

        def start_deleting(status: str, thread: threading.Thread = deleting) -> None:
            if status.startswith("using existing") and thread.ident is None:
                thread.start()

        recipe = Recipe(source=name("base"), parameters={"seed": turn})
        with contextlib.suppress(BlobNotFound):  # deleted before it was claimed: said so, and nothing made
            assert store.create(name("derived"), recipe, start_deleting).system == f"base {turn}"
        deleting.join()
        assert not [finding for finding in store.verify() if finding.is_damage]
