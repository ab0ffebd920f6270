"""Manifest files on disk, in Ollama's layout: `manifests/<host>/<namespace>/<model>/<tag>`.

Nothing outside the folder is ever read or written through it, whatever symbolic links it holds; a file that is
no manifest is skipped with a warning.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from registry.digest import Digest
from registry.disk import fsync_directory, telling_when_full
from registry.errors import InvalidManifest, InvalidModelName, UnsupportedModel
from registry.manifest import MAX_MANIFEST_BYTES, Manifest, mentioned_digests
from registry.names import ModelName

_DEPTH: Final = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest file that was read. `data` is the whole file, `modified_ns` its time stamp."""

    name: ModelName
    manifest: Manifest
    data: bytes
    modified_ns: int

    @property
    def digest(self) -> Digest:
        """SHA-256 of the file: what Ollama calls the model's digest."""
        return Digest.of(self.data)

    @property
    def modified_at(self) -> datetime:
        """When the file was last written."""
        return datetime.fromtimestamp(self.modified_ns / 1e9, UTC)


class ManifestTree:
    """The manifests of one models folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._warned: set[tuple[str, str]] = set()

    def find(self, name: ModelName) -> Path | None:
        """The file of this name, in whatever case it is written there."""
        exact = self.directory.joinpath(*name.parts)
        if exact.is_file():
            return exact
        return next((path for path, stored in self.paths() if stored == name), None)

    def read(self, name: ModelName) -> StoredManifest | None:
        """The manifest of this name, None if there is none. Raises: InvalidManifest."""
        path = self.find(name)
        return None if path is None else self._read(path, ModelName(*path.parts[-_DEPTH:]))

    def __iter__(self) -> Iterator[StoredManifest]:
        """Every manifest that can be read; the others are logged, once."""
        for path, name in self.paths():
            try:
                yield self._read(path, name)
            except InvalidManifest as error:
                self._warn(path, error.reason)

    def paths(self) -> Iterator[tuple[Path, ModelName]]:
        """Every file that is where a manifest would be, and the name that its place gives it."""
        for path in self._files(self.directory, _DEPTH):
            try:
                yield path, ModelName(*path.parts[-_DEPTH:])
            except InvalidModelName as error:
                self._warn(path, str(error))

    def write(self, name: ModelName, data: bytes) -> None:
        """Write or replace a manifest, whole or not at all; for the holder of the store's lock.

        Raises: InvalidManifest: it would leave the folder. StorageFull.
        """
        path = self.find(name) or self.directory.joinpath(*name.parts)
        self._check_inside(path)
        self.directory.mkdir(parents=True, exist_ok=True)
        # In the top folder, where neither we nor Ollama look for manifests.
        partial = self.directory / ".partial"
        partial.unlink(missing_ok=True)  # a dead process's
        with telling_when_full(self.directory, len(data)):
            try:
                with partial.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        fsync_directory(path.parent)

    def remove(self, path: Path) -> None:
        """Remove a manifest, and the folders that are empty without it."""
        self._check_inside(path)
        path.unlink()
        fsync_directory(path.parent)
        for folder in list(path.parents)[: _DEPTH - 1]:
            try:
                folder.rmdir()
            except OSError:
                break  # not empty

    def referenced(self) -> dict[Digest, int]:
        """Every digest that some manifest mentions, those that can't be parsed included.

        With each goes the time stamp, in nanoseconds, of the oldest manifest that mentions it.
        Raises: OSError: a manifest can't be read, so nobody knows what it needs.
        """
        found: dict[Digest, int] = {}
        # Links to other places are followed here: Ollama lists the models behind them.
        for path in _files_below(self.directory, _DEPTH):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                modified_ns = os.fstat(file.fileno()).st_mtime_ns
                for digest in mentioned_digests(file.read(MAX_MANIFEST_BYTES)):
                    found[digest] = min(modified_ns, found.get(digest, modified_ns))
        return found

    def read_path(self, path: Path) -> StoredManifest:
        """The manifest in a file that `paths` gave. Raises: InvalidManifest."""
        return self._read(path, ModelName(*path.parts[-_DEPTH:]))

    def _read(self, path: Path, name: ModelName) -> StoredManifest:
        try:
            self._check_inside(path)
            with path.open("rb") as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
                modified_ns = os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            raise InvalidManifest(path, f"can't be read: {error.strerror}") from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise InvalidManifest(path, f"longer than {MAX_MANIFEST_BYTES} bytes")
        try:
            return StoredManifest(name, Manifest.decode(data), data, modified_ns)
        except UnsupportedModel as error:
            raise InvalidManifest(path, str(error)) from error

    def _files(self, folder: Path, depth: int) -> Iterator[Path]:
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._warn(folder, f"can't be read: {error.strerror}")
            return
        for entry in entries:
            path = folder / entry.name
            if depth == 1 and entry.is_file():
                yield path
            elif depth > 1 and entry.is_dir():
                if entry.is_symlink() and not self._is_inside(path):
                    self._warn(path, "links to a place outside the models folder")
                else:
                    yield from self._files(path, depth - 1)

    def _check_inside(self, path: Path) -> None:
        if not self._is_inside(path):
            raise InvalidManifest(path, "links to a place outside the models folder")

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.directory.resolve())

    def _warn(self, path: Path, reason: str) -> None:
        if (str(path), reason) not in self._warned:  # a list is asked for every few seconds
            self._warned.add((str(path), reason))
            log.warning("skipped %s: %s", path, reason)


def _files_below(folder: Path, depth: int) -> Iterator[Path]:
    """Every file at this depth; unlike the tree's own walk, a folder that can't be read is an error."""
    try:
        entries = list(folder.iterdir())
    except FileNotFoundError:
        return
    for path in entries:
        if depth == 1 and path.is_file():
            yield path
        elif depth > 1 and path.is_dir():
            yield from _files_below(path, depth - 1)
