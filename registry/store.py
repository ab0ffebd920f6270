"""The models of one folder, and below them the built-in ones: list, find, create, copy, delete, verify.

A blob is removed only when no manifest mentions it, and not while somebody may be about to: a blob that was
written or claimed after the model being deleted was made is left for `prune`, for an hour at least.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from registry.blobs import BlobStore
from registry.create import Builder, Progress
from registry.digest import Digest
from registry.errors import BlobNotFound, BuiltinModel, InvalidManifest, ModelNotFound, RegistryError
from registry.facts_cache import FactsCache
from registry.manifest import mentioned_digests
from registry.manifest_tree import ManifestTree, StoredManifest
from registry.model import Model
from registry.names import ModelName
from registry.recipe import Recipe
from registry.store_lock import store_lock
from registry.verify import Finding, Tree, verify_trees

# An upload may take this long from its first blob to its manifest. Ollama allows the same.
GRACE_S: Final = 3600.0
BUILTIN: Final = Path(__file__).parent / "builtin"

log = logging.getLogger(__name__)


def _silent(_: str) -> None:
    pass


class ModelStore:
    """A models folder in Ollama's layout, with a read-only folder of built-in models below it.

    Any number of processes, Ollama among them, may use the folder. Methods block on the disk: from a task, call
    them in a thread.
    """

    def __init__(self, root: Path, *, cache_dir: Path, builtin: Path = BUILTIN) -> None:
        self.root = root
        self.blobs = BlobStore(root / "blobs")
        self._tree = ManifestTree(root / "manifests")
        self._builtin_blobs = BlobStore(builtin / "blobs")
        self._builtin_tree = ManifestTree(builtin / "manifests")
        self._facts = FactsCache(cache_dir / "gguf-facts")
        self._builder = Builder(self.blobs, self._facts, self.resolve)

    def list(self) -> list[Model]:
        """Every model, the latest change first. Manifests that can't be read are skipped and logged."""
        models = [self._model(stored) for stored in self._tree]
        names = {model.name for model in models}
        models += [self._model(stored, builtin=True) for stored in self._builtin_tree if stored.name not in names]
        return sorted(models, key=lambda model: (-model.modified_at.timestamp(), str(model.name)))

    def resolve(self, name: ModelName) -> Model:
        """The model of this name, in whatever case it was created.

        Raises: ModelNotFound; InvalidManifest: it is there, but damaged.
        """
        if stored := self._tree.read(name):
            return self._model(stored)
        if stored := self._builtin_tree.read(name):
            return self._model(stored, builtin=True)
        raise ModelNotFound(name)

    def warm_facts(self, models: Iterable[Model]) -> None:
        """Read what `Model.facts` of these models needs, together: ten times as fast as one by one."""
        blobs: dict[Digest, Path] = {}
        for model in models:
            with contextlib.suppress(RegistryError):  # whoever asks that model for its facts will be told
                blobs[model.weights_layer.digest] = model.weights
        self._facts.warm(blobs)

    def create(self, name: ModelName, recipe: Recipe, progress: Progress = _silent) -> Model:
        """Make a model, or replace the one of this name; `progress` gets Ollama's status lines.

        Raises: as `Builder.build`; InvalidManifest: the name's folder is not inside the store.
        """
        manifest = self._builder.build(recipe, progress)
        progress("writing manifest")
        self._publish(name, manifest.encode())
        return self.resolve(name)

    def copy(self, source: ModelName, target: ModelName) -> None:
        """Give a model a second name, replacing what had that name.

        Raises: ModelNotFound, InvalidManifest, BlobNotFound, StorageFull.
        """
        model = self.resolve(source)
        if source == target:
            return
        for layer in model.manifest.blobs:
            if model.builtin:
                self._builder.take(layer.digest, model.blobs)
        stored = (self._builtin_tree if model.builtin else self._tree).read(source)
        if stored is None:
            raise ModelNotFound(source)
        self._publish(target, stored.data)

    def delete(self, name: ModelName) -> None:
        """Remove a model and the blobs that only it needed. A built-in of the same name shows again.

        Raises: ModelNotFound, BuiltinModel.
        """
        with store_lock(self.root):
            path = self._tree.find(name)
            if path is None:
                raise BuiltinModel(name) if self._builtin_tree.find(name) else ModelNotFound(name)
            released = self._releases(path)
            self._tree.remove(path)
            self._sweep(*released)

    def prune(self, grace_s: float = GRACE_S) -> tuple[Digest, ...]:
        """Remove blobs that nothing mentions and nobody touched for `grace_s`, and dead writers' partial files."""
        self.blobs.remove_stale_partials()
        with store_lock(self.root):
            return self._sweep(self.blobs, released_ns=0, grace_s=grace_s)

    def verify(self) -> Iterator[Finding]:
        """Hash every blob again and say what is wrong; see `Finding`."""
        return verify_trees(
            [
                Tree(self.blobs, self._tree),
                Tree(self._builtin_blobs, self._builtin_tree),
            ]
        )

    def close(self) -> None:
        """Close the cache of facts."""
        self._facts.close()

    def _model(self, stored: StoredManifest, *, builtin: bool = False) -> Model:
        return Model(
            name=stored.name,
            digest=stored.digest,
            manifest=stored.manifest,
            modified_at=stored.modified_at,
            builtin=builtin,
            blobs=self._builtin_blobs if builtin else self.blobs,
            facts_cache=self._facts,
        )

    def _publish(self, name: ModelName, data: bytes) -> None:
        with store_lock(self.root):
            for digest in mentioned_digests(data):
                if not self.blobs.has(digest):
                    raise BlobNotFound(digest)
            path = self._tree.find(name)
            released = self._releases(path) if path else None
            self._tree.write(name, data)
            if released:
                self._sweep(*released)

    def _releases(self, path: Path) -> tuple[set[Digest], int]:
        """What a manifest mentions, and when it was written."""
        try:
            stored = self._tree.read_path(path)
        except InvalidManifest:
            return set(), 0  # what it needs is not known for sure; `prune` will know
        return {layer.digest for layer in stored.manifest.blobs}, stored.modified_ns

    def _sweep(self, candidates: Iterable[Digest], released_ns: int, grace_s: float = GRACE_S) -> tuple[Digest, ...]:
        """Remove those candidates that nothing mentions, unless they were touched since and lately."""
        try:
            needed = self._tree.referenced()
        except OSError as error:
            log.warning("no blob removed, as it is not known which are needed: %s", error)
            return ()
        young_ns = time.time_ns() - int(grace_s * 1e9)
        removed = []
        for digest in sorted(candidates):
            try:
                touched_ns = self.blobs.path(digest).stat().st_mtime_ns
            except FileNotFoundError:
                continue
            if touched_ns > max(released_ns, young_ns):
                continue
            if (needed_since_ns := needed.get(digest)) is None:
                self.blobs.remove(digest)
                removed.append(digest)
            else:
                # Whoever touched it last is done with it, so that is no reason to keep it later on.
                self.blobs.backdate(digest, needed_since_ns)
        return tuple(removed)
