"""The name of a blob: the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from registry.errors import InvalidDigest

_PATTERN = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """SHA-256 of a blob; written `sha256:` and 64 lower-case hex digits."""

    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha256:<hex>`, or `sha256-<hex>` as the files are called, in either case.

        Raises: InvalidDigest: any other algorithm, length or alphabet.
        """
        if not (match := _PATTERN.fullmatch(text)):
            raise InvalidDigest(text)
        return cls(match[1].lower())

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The digest of these bytes."""
        return cls(hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
