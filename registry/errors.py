"""What can go wrong with names, blobs, manifests, Modelfiles and GGUF files.

RegistryError
├── InvalidModelName        text that is no model name
├── InvalidDigest           text that is no SHA-256 digest
├── ModelNotFound           no manifest of that name
├── BuiltinModel            the model ships with the package and can't be deleted
├── InvalidManifest         a manifest file that can't be understood
├── UnsupportedModel        understood, but of a kind that can't be created or run here
├── InvalidParameter        PARAMETER with an unknown name or a value of the wrong type
├── ModelfileError          a Modelfile that can't be parsed, or a value that none can hold
├── InvalidGguf             a file that is not a sound GGUF
├── StorageFull             the file system took no more bytes
└── BlobError
    ├── BlobNotFound        no blob of that digest
    ├── DigestMismatch      the bytes written do not hash to the digest expected
    └── CorruptBlob         the bytes stored no longer hash to their name
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from registry.digest import Digest
    from registry.names import ModelName


class RegistryError(Exception):
    """Any failure of the registry that a caller can answer."""


class InvalidModelName(RegistryError):
    """The text is no model name; `text` is shortened for display."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text if len(text) <= 100 else f"{text[:100]}..."

    def __str__(self) -> str:
        return f"invalid model name {self.text!r}"


class InvalidDigest(RegistryError):
    """The text is not `sha256:` and 64 hex digits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text if len(text) <= 100 else f"{text[:100]}..."

    def __str__(self) -> str:
        return f"invalid digest {self.text!r}: expected sha256: and 64 hex digits"


class ModelNotFound(RegistryError):
    """No model of this name is stored here."""

    def __init__(self, name: ModelName) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"model '{self.name}' not found"


class BuiltinModel(RegistryError):
    """The model ships with the package: it is always there."""

    def __init__(self, name: ModelName) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"model '{self.name}' is built in and can't be deleted; "
            "to use another model under this name, create or copy one onto it"
        )


class InvalidManifest(RegistryError):
    """The manifest file can't be understood."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"manifest {self.path}: {self.reason}"


class UnsupportedModel(RegistryError):
    """A model, or a way to make one, that is known but not supported here."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class InvalidParameter(RegistryError):
    """A parameter that no model has, or a value of the wrong type."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return self.reason


class ModelfileError(RegistryError):
    """What is wrong in a Modelfile; `line` counts from 1, 0 where no line is to blame."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(line, message)
        self.line, self.message = line, message

    def __str__(self) -> str:
        return f"(line {self.line}): {self.message}" if self.line else self.message


class InvalidGguf(RegistryError):
    """The file is not a GGUF that can be used; `reason` says where it is wrong."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path.name}: {self.reason}"


class BlobError(RegistryError):
    """Any failure with a blob's bytes."""


class BlobNotFound(BlobError):
    """No blob of this digest is stored here."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(digest)
        self.digest = digest

    def __str__(self) -> str:
        return f"blob {self.digest} not found"


class DigestMismatch(BlobError):
    """The bytes written do not hash to the digest expected; they were discarded."""

    def __init__(self, want: Digest, got: Digest) -> None:
        super().__init__(want, got)
        self.want, self.got = want, got

    def __str__(self) -> str:
        return f"digest mismatch, expected {self.want}, got {self.got}"


class CorruptBlob(BlobError):
    """The stored bytes are not what their name says."""

    def __init__(self, digest: Digest, reason: str) -> None:
        super().__init__(digest, reason)
        self.digest, self.reason = digest, reason

    def __str__(self) -> str:
        return f"blob {self.digest} is corrupt: {self.reason}"


class StorageFull(RegistryError):
    """The file system took no more bytes; what was written of the file has been removed.

    The file needs `needed_bytes` (at least), and `free_bytes` are free again. `reason` is the system's word for
    it: a full disk, a quota, a limit on the size of files.
    """

    def __init__(self, directory: Path, needed_bytes: int, free_bytes: int, reason: str) -> None:
        super().__init__(directory, needed_bytes, free_bytes, reason)
        self.directory, self.needed_bytes, self.free_bytes = directory, needed_bytes, free_bytes
        self.reason = reason

    def __str__(self) -> str:
        needed, free = _people_bytes(self.needed_bytes), _people_bytes(self.free_bytes)
        return f"can't store a file in {self.directory}: {self.reason} ({needed} needed, {free} free)"


def _people_bytes(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
