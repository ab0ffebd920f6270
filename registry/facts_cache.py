"""GGUF facts by digest, kept on disk: reading them costs 0.3 s and never gives another answer."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from registry.digest import Digest
from registry.errors import InvalidGguf
from registry.gguf_facts import (
    GgufFacts,
    decode_facts,
    encode_facts,
    read_gguf_facts,
    read_sound_gguf_facts,
)

if TYPE_CHECKING:
    import diskcache

# Changes whenever GgufFacts does, so that an old entry is never read as a new one.
FORMAT: Final = 1
MAX_CACHE_BYTES: Final = 64 << 20

log = logging.getLogger(__name__)


class FactsCache:
    """Facts of blobs; a cache that can't be used (read-only, broken, full disk) only makes this slower."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[Digest, GgufFacts] = {}
        self._refused: dict[Digest, tuple[tuple[int, int], InvalidGguf]] = {}
        self._lock = threading.Lock()
        self._disk: diskcache.Cache | None = None
        self._opened = False

    def facts(self, digest: Digest, path: Path) -> GgufFacts:
        """The facts of the blob at `path`. Raises: InvalidGguf, OSError."""
        if known := self._known.get(digest):
            return known
        with self._lock:  # of several askers at once, one reads
            if known := self._recall(digest):
                return known
            stat = path.stat()
            version = stat.st_mtime_ns, stat.st_size
            refused = self._refused.get(digest)
            if refused and refused[0] == version:
                raise refused[1]
            try:
                facts = read_gguf_facts(path)
            except InvalidGguf as error:
                self._refused[digest] = version, error
                raise
            self._remember(digest, facts)
            return facts

    def warm(self, blobs: Mapping[Digest, Path]) -> None:
        """Read the facts of many blobs together; of those that have none, `facts` will say why."""
        with self._lock:
            missing = {path: digest for digest, path in blobs.items() if not self._recall(digest)}
            for path, facts in read_sound_gguf_facts(list(missing)).items():
                self._remember(missing[path], facts)

    def close(self) -> None:
        """Close the file behind the cache."""
        with self._lock, contextlib.suppress(sqlite3.Error, OSError):
            if self._disk is not None:
                self._disk.close()

    def _recall(self, digest: Digest) -> GgufFacts | None:
        if digest not in self._known and (facts := self._load(digest)):
            self._known[digest] = facts
        return self._known.get(digest)

    def _remember(self, digest: Digest, facts: GgufFacts) -> None:
        self._known[digest] = facts
        self._save(digest, facts)

    def _load(self, digest: Digest) -> GgufFacts | None:
        try:
            data = self._open().get(f"{FORMAT}:{digest.hex}") if self._usable() else None
            return decode_facts(data) if isinstance(data, bytes) else None
        except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
            log.warning("cache of model facts can't be read: %s", error)
            return None

    def _save(self, digest: Digest, facts: GgufFacts) -> None:
        try:
            if self._usable():
                self._open().set(f"{FORMAT}:{digest.hex}", encode_facts(facts))
        except (sqlite3.Error, OSError) as error:
            log.warning("cache of model facts can't be written: %s", error)

    def _usable(self) -> bool:
        return self._disk is not None or not self._opened

    def _open(self) -> Any:
        if self._disk is None:
            import diskcache

            self._opened = True
            self._disk = diskcache.Cache(
                str(self._directory), disk=_bytes_only(), size_limit=MAX_CACHE_BYTES, timeout=5
            )
        return self._disk


def _bytes_only() -> type:
    import diskcache

    class BytesDisk(diskcache.Disk):  # type: ignore[misc]
        """Never unpickles: whoever can write into the cache directory must not run code here."""

        def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
            if mode == diskcache.core.MODE_PICKLE:
                return None
            return super().fetch(mode, filename, value, read)

    return BytesDisk
