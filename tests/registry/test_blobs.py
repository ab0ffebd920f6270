from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import BlobNotFound, BlobStore, CorruptBlob, Digest, DigestMismatch, StorageFull

PAYLOAD = b"the bytes of a blob"


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def files(blobs: BlobStore) -> list[str]:
    return sorted(path.name for path in blobs.directory.iterdir())


def write_megabytes(blobs: BlobStore, count: int) -> None:
    with blobs.write() as writer:
        for _ in range(count * 32):
            writer.write(os.urandom(1 << 15))
        writer.commit()


def test_a_committed_blob_is_there_under_its_digest(blobs: BlobStore) -> None:
    digest = Digest.of(PAYLOAD)
    with blobs.write(digest) as writer:
        writer.write(PAYLOAD[:5])
        writer.write(PAYLOAD[5:])
        assert not blobs.has(digest)
        assert writer.commit() == digest
    assert files(blobs) == [f"sha256-{digest.hex}"]
    assert (blobs.has(digest), blobs.size(digest), blobs.read(digest)) == (True, len(PAYLOAD), PAYLOAD)
    assert list(blobs) == [digest]


def test_a_writer_that_stops_early_leaves_nothing(blobs: BlobStore) -> None:
    with blobs.write() as writer:
        writer.write(PAYLOAD)
    assert files(blobs) == []


def test_other_bytes_than_expected_are_discarded(blobs: BlobStore) -> None:
    want = Digest.of(b"other")
    with blobs.write(want) as writer:
        writer.write(PAYLOAD)
        with pytest.raises(DigestMismatch) as caught:
            writer.commit()
    assert (caught.value.want, caught.value.got) == (want, Digest.of(PAYLOAD))
    assert files(blobs) == []


def test_writing_a_blob_again_repairs_it(blobs: BlobStore) -> None:
    digest = blobs.put(PAYLOAD)
    blobs.path(digest).write_bytes(b"rotten")
    with pytest.raises(CorruptBlob):
        blobs.read(digest)
    with blobs.write(digest) as writer:
        writer.write(PAYLOAD)
        writer.commit()
    assert blobs.read(digest) == PAYLOAD


def test_a_missing_blob_is_named(blobs: BlobStore) -> None:
    digest = Digest.of(b"nowhere")
    for ask in (blobs.size, blobs.read):
        with pytest.raises(BlobNotFound, match=digest.hex):
            ask(digest)
    assert not blobs.has(digest)
    assert not blobs.claim(digest)
    blobs.remove(digest)


def test_a_blob_that_an_old_folder_names_with_a_colon_is_found(blobs: BlobStore) -> None:
    digest = Digest.of(PAYLOAD)
    blobs.directory.mkdir()
    (blobs.directory / str(digest)).write_bytes(PAYLOAD)
    assert blobs.has(digest)
    assert blobs.read(digest) == PAYLOAD
    assert list(blobs) == [digest]
    assert files(blobs) == [str(digest)]  # never renamed


def test_a_link_to_another_file_is_not_taken_for_the_blob(blobs: BlobStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password")
    digest = Digest.of(PAYLOAD)
    blobs.directory.mkdir()
    blobs.path(digest).symlink_to(secret)
    with pytest.raises(CorruptBlob):
        blobs.read(digest)
    blobs.remove(digest)
    assert secret.exists()


HOLD_PARTIAL = """
import sys, time
from pathlib import Path
from registry import BlobStore
writer = BlobStore(Path(sys.argv[1])).write()
writer.write(b"x" * 100_000)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other_writer(blobs: BlobStore) -> Iterator[subprocess.Popen[str]]:
    """Another process with a blob half written."""
    command = [sys.executable, "-c", HOLD_PARTIAL, str(blobs.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_only_a_dead_writers_partial_file_is_removed(blobs: BlobStore, other_writer: subprocess.Popen[str]) -> None:
    with blobs.write() as mine:
        assert blobs.remove_stale_partials() == 0
        assert len(files(blobs)) == 2
        other_writer.send_signal(signal.SIGKILL)
        other_writer.wait()
        assert blobs.remove_stale_partials() == 1
        mine.write(PAYLOAD)
        mine.commit()
    assert files(blobs) == [f"sha256-{Digest.of(PAYLOAD).hex}"]


def test_the_next_process_clears_away_what_a_dead_one_left(
    blobs: BlobStore, other_writer: subprocess.Popen[str]
) -> None:
    other_writer.send_signal(signal.SIGKILL)
    other_writer.wait()
    assert len(files(blobs)) == 1
    digest = BlobStore(blobs.directory).put(PAYLOAD)
    assert files(blobs) == [f"sha256-{digest.hex}"]


def test_a_file_that_may_not_grow_is_storage_full_and_leaves_nothing(blobs: BlobStore) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(StorageFull) as caught:
            write_megabytes(blobs, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (caught.value.directory, caught.value.reason) == (blobs.directory, "File too large")
    assert caught.value.needed_bytes > 1 << 20
    assert files(blobs) == []


def test_a_blob_larger_than_the_disk_is_refused_at_once(blobs: BlobStore) -> None:
    size = shutil.disk_usage("/").total * 100
    with pytest.raises(StorageFull) as caught:
        blobs.write(size_bytes=size)
    assert caught.value.needed_bytes == size
    assert 0 < caught.value.free_bytes < size
    assert files(blobs) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount_point)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system here")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


def test_a_full_disk_is_storage_full_and_what_was_written_is_freed(small_disk: Path) -> None:
    blobs = BlobStore(small_disk / "blobs")
    kept = blobs.put(PAYLOAD)
    free_before = shutil.disk_usage(small_disk).free
    with pytest.raises(StorageFull) as caught:
        write_megabytes(blobs, 2)
    assert caught.value.needed_bytes > caught.value.free_bytes
    assert shutil.disk_usage(small_disk).free == free_before
    assert files(blobs) == [f"sha256-{kept.hex}"]
