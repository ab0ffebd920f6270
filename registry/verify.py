"""Hash every blob again and compare with what the manifests say: what is corrupt, missing, orphaned, unreadable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from registry.blobs import BlobStore
from registry.digest import Digest
from registry.errors import InvalidManifest
from registry.manifest import Layer
from registry.manifest_tree import ManifestTree
from registry.names import ModelName

_CHUNK_BYTES: Final = 1 << 20
_PROGRESS_BYTES: Final = 128 << 20

FindingKind: TypeAlias = Literal["progress", "sound", "corrupt", "missing", "orphaned", "unreadable"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that verifying found, or how far it is.

    Attributes:
        kind: "progress": a large blob is being read. "sound": the blob is what its name says. "corrupt": it is
            not. "missing": a model needs it. "orphaned": sound, but no model needs it. "unreadable": a manifest
            or blob that can't be read or understood.
        subject: the digest, or the path of a manifest.
        models: the models concerned.
        detail: what is wrong, in words; empty for "progress" and "sound".
        done_bytes, total_bytes: how far the whole run is.
    """

    kind: FindingKind
    subject: str
    models: tuple[ModelName, ...] = ()
    detail: str = ""
    done_bytes: int = 0
    total_bytes: int = 0

    @property
    def is_damage(self) -> bool:
        """Whether a model can't be used because of it."""
        return self.kind in ("corrupt", "missing", "unreadable")


@dataclass(frozen=True, slots=True)
class Tree:
    """Blobs and the manifests that need them."""

    blobs: BlobStore
    manifests: ManifestTree


def verify_trees(trees: Sequence[Tree]) -> Iterator[Finding]:
    """Check the trees one after the other; the last finding of a run has done_bytes equal to total_bytes."""
    sizes = [{digest: tree.blobs.size(digest) for digest in tree.blobs} for tree in trees]
    total = sum(sum(of_tree.values()) for of_tree in sizes)
    done = 0
    for tree, of_tree in zip(trees, sizes, strict=True):
        users: dict[Digest, dict[ModelName, Layer]] = {}
        for path, name in tree.manifests.paths():
            try:
                stored = tree.manifests.read_path(path)
            except InvalidManifest as error:
                yield Finding("unreadable", str(path), (name,), error.reason, done, total)
                continue
            for layer in stored.manifest.blobs:
                users.setdefault(layer.digest, {})[name] = layer
        for digest, needed_by in users.items():
            if digest not in of_tree:
                detail = "a model needs this blob, and it is not there"
                yield Finding("missing", str(digest), tuple(needed_by), detail, done, total)
        for digest, size_bytes in of_tree.items():
            yield from _check(tree.blobs, digest, users.get(digest, {}), done, total)
            done += size_bytes


def _check(blobs: BlobStore, digest: Digest, users: dict[ModelName, Layer], done: int, total: int) -> Iterator[Finding]:
    models = tuple(users)
    hasher = hashlib.sha256()
    read = 0
    try:
        with blobs.path(digest).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                hasher.update(chunk)
                read += len(chunk)
                if read % _PROGRESS_BYTES == 0:
                    yield Finding("progress", str(digest), models, "", min(done + read, total), total)
    except FileNotFoundError:
        return  # deleted meanwhile
    except OSError as error:
        yield Finding("unreadable", str(digest), models, f"can't be read: {error.strerror}", done, total)
        return
    after = min(done + read, total)
    claimed = {layer.size_bytes for layer in users.values()} - {read}
    if hasher.hexdigest() != digest.hex:
        detail = f"its {read} bytes have the digest sha256:{hasher.hexdigest()}"
        yield Finding("corrupt", str(digest), models, detail, after, total)
    elif claimed:
        detail = f"it has {read} bytes, its manifest says {claimed.pop()}"
        yield Finding("corrupt", str(digest), models, detail, after, total)
    elif not users:
        yield Finding("orphaned", str(digest), models, f"no model needs its {read} bytes", after, total)
    else:
        yield Finding("sound", str(digest), models, "", after, total)
