"""Blobs on disk, in Ollama's layout: `blobs/sha256-<hex>`. A blob appears whole or not at all.

A writer fills `partial-*` in the same directory, then makes it durable, verifies it and renames it. It holds a
lock on that file meanwhile, so that what a dead process left behind can be told from what a live one is writing.
Which blobs are needed is decided elsewhere (`registry.store`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from registry.digest import Digest
from registry.disk import fsync_directory, telling_when_full
from registry.errors import BlobNotFound, CorruptBlob, DigestMismatch, InvalidDigest, StorageFull

# Templates, licences, parameters and the like are read into memory; the longest licences are under 1 MiB.
MAX_TEXT_BLOB_BYTES: Final = 16 << 20
_CHUNK_BYTES: Final = 1 << 20
_PARTIAL_PREFIX: Final = "partial-"


class BlobStore:
    """The blobs of one models folder; any number of processes may use one folder at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._tidied = False

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be. Very old folders have a colon in the file name."""
        path = self.directory / f"sha256-{digest.hex}"
        if not path.exists() and (old := self.directory / str(digest)).exists():
            return old
        return path

    def has(self, digest: Digest) -> bool:
        """Whether the blob is stored."""
        return self.path(digest).is_file()

    def size(self, digest: Digest) -> int:
        """The blob's length in bytes. Raises: BlobNotFound."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise BlobNotFound(digest) from None

    def claim(self, digest: Digest) -> bool:
        """Whether the blob is stored; if so, it is now as safe from deletion as one just written."""
        path = self.path(digest)
        if not path.is_file():
            return False
        with contextlib.suppress(OSError):  # a folder of another user, read-only: nobody deletes there either
            os.utime(path)
        return True

    def backdate(self, digest: Digest, to_ns: int) -> None:
        """Undo a claim: the blob is as old as this time stamp, unless it is older."""
        path = self.path(digest)
        with contextlib.suppress(OSError):
            touched_ns = path.stat().st_mtime_ns
            os.utime(path, ns=(min(touched_ns, to_ns), min(touched_ns, to_ns)))

    def read(self, digest: Digest) -> bytes:
        """A small blob's bytes, verified.

        Raises: BlobNotFound; CorruptBlob: longer than MAX_TEXT_BLOB_BYTES, or not what its name says.
        """
        try:
            with self.path(digest).open("rb") as file:
                data = file.read(MAX_TEXT_BLOB_BYTES + 1)
        except FileNotFoundError:
            raise BlobNotFound(digest) from None
        except OSError as error:
            raise CorruptBlob(digest, f"can't be read: {error.strerror}") from error
        if len(data) > MAX_TEXT_BLOB_BYTES:
            raise CorruptBlob(digest, f"longer than {MAX_TEXT_BLOB_BYTES} bytes, which no text here is")
        if Digest.of(data) != digest:
            raise CorruptBlob(digest, "its bytes have another digest")
        return data

    def write(self, expected: Digest | None = None, *, size_bytes: int | None = None) -> BlobWriter:
        """Start a blob. With `size_bytes`, a disk that can't hold it is noticed at once.

        The first one also clears away what dead writers left. Raises: StorageFull.
        """
        if not self._tidied:
            self._tidied = True
            self.remove_stale_partials()
        return BlobWriter(self, expected, size_bytes)

    def put(self, data: bytes) -> Digest:
        """Store these bytes, unless they are stored already. Raises: StorageFull."""
        digest = Digest.of(data)
        if self.claim(digest) and self.size(digest) == len(data):
            return digest
        with self.write(digest, size_bytes=len(data)) as writer:
            writer.write(data)
            return writer.commit()

    def put_file(self, source: Path) -> Digest:
        """Store a copy of a file. Raises: StorageFull, OSError of reading `source`."""
        with source.open("rb") as file, self.write(size_bytes=source.stat().st_size) as writer:
            while chunk := file.read(_CHUNK_BYTES):
                writer.write(chunk)
            return writer.commit()

    def remove(self, digest: Digest) -> None:
        """Forget a blob; one that is not there is no error."""
        self.path(digest).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[Digest]:
        """The digests of all blobs, sorted."""
        found = set()
        for entry in self._entries():
            with contextlib.suppress(InvalidDigest):
                found.add(Digest.parse(entry.name))
        return iter(sorted(found))

    def remove_stale_partials(self) -> int:
        """Remove what dead writers left behind; returns how many. Writers at work are not disturbed."""
        removed = 0
        for entry in self._entries():
            if not entry.name.startswith(_PARTIAL_PREFIX):
                continue
            with contextlib.suppress(OSError), Path(entry.path).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Path(entry.path).unlink()
                removed += 1
        return removed

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.directory) as entries:
                return list(entries)
        except FileNotFoundError:
            return []


class BlobWriter:
    """A blob being written. Leaving the `with` block without `commit` leaves nothing behind."""

    def __init__(self, store: BlobStore, expected: Digest | None, size_bytes: int | None) -> None:
        self._store = store
        self._expected = expected
        self._size_bytes = size_bytes
        self._hash = hashlib.sha256()
        self.written_bytes = 0
        store.directory.mkdir(parents=True, exist_ok=True)
        if size_bytes is not None and size_bytes > (free := shutil.disk_usage(store.directory).free):
            raise StorageFull(store.directory, size_bytes, free, os.strerror(errno.ENOSPC))
        self._file, self._partial = self._open_partial()

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes. Raises: StorageFull: nothing of the blob is left on the disk."""
        self._hash.update(chunk)
        with self._or_nothing(len(chunk)):
            self._file.write(chunk)
        self.written_bytes += len(chunk)

    def commit(self) -> Digest:
        """Make the blob visible and durable. Replaces one of the same digest, which may be corrupt.

        Raises: DigestMismatch: the bytes are not those expected. StorageFull. Nothing is left either way.
        """
        got = Digest(self._hash.hexdigest())
        if self._expected is not None and got != self._expected:
            self.discard()
            raise DigestMismatch(self._expected, got)
        with self._or_nothing(0):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._partial.replace(self._store.directory / f"sha256-{got.hex}")
        self._file.close()
        fsync_directory(self._store.directory)
        return got

    def discard(self) -> None:
        """Remove what was written; after `commit` this does nothing."""
        if not self._file.closed:
            self._partial.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # closing flushes, and the disk may be full
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _open_partial(self) -> tuple[BinaryIO, Path]:
        while True:
            path = self._store.directory / f"{_PARTIAL_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
            with self._or_nothing(0):
                file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), "wb")
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                return file, path
            file.close()  # somebody took it for stale in the moment before it was locked

    @contextlib.contextmanager
    def _or_nothing(self, pending_bytes: int) -> Iterator[None]:
        """Leave nothing on the disk if it takes no more. Raises: StorageFull."""
        needed_bytes = max(self.written_bytes + pending_bytes, self._size_bytes or 0)
        with telling_when_full(self._store.directory, needed_bytes):
            try:
                yield
            except OSError:
                if hasattr(self, "_file"):
                    self.discard()
                raise
