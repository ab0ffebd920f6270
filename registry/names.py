"""Model names as Ollama writes them: `[host/][namespace/]model[:tag]`, and what may stand in each part.

Source of the rules: Ollama's documentation of names (types/model): lengths, alphabets, defaults, the shortest
form, and that names differing only in case are the same model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from registry.errors import InvalidModelName

DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"
DEFAULT_SCHEME: Final = "https"

# Every part starts with a letter, digit or underscore, so none is ".", ".." or hidden.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = _TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True, slots=True, eq=False)
class ModelName:
    """A complete, valid name. Keeps its case, but compares and hashes without regard to it.

    `scheme` only says how the host is to be reached (`http://host/ns/model`); it is no part of the identity.
    """

    host: str
    namespace: str
    model: str
    tag: str
    scheme: str = DEFAULT_SCHEME

    def __post_init__(self) -> None:
        valid = (
            _HOST.fullmatch(self.host)
            and _NAMESPACE.fullmatch(self.namespace)
            and _MODEL.fullmatch(self.model)
            and _TAG.fullmatch(self.tag)
        )
        if not valid:
            raise InvalidModelName(self.full)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name, filling in what it leaves out.

        Raises: InvalidModelName: a part is empty, too long or has a character it may not have.
        """
        rest, tag = text, DEFAULT_TAG
        if rest.rfind(":") > rest.rfind("/"):  # a colon further left is a port or a scheme
            rest, _, tag = rest.rpartition(":")
        rest, slash, model = rest.rpartition("/")
        host, namespace, scheme = DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_SCHEME
        if slash:
            rest, slash, namespace = rest.rpartition("/")
            if slash:
                before, separator, after = rest.partition("://")
                scheme, host = (before, after) if separator else (DEFAULT_SCHEME, rest)
        try:
            return cls(host, namespace, model, tag, scheme)
        except InvalidModelName:
            raise InvalidModelName(text) from None

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Host, namespace, model, tag: also the manifest's path below `manifests/`."""
        return self.host, self.namespace, self.model, self.tag

    @property
    def full(self) -> str:
        """All four parts: `registry.ollama.ai/library/demo:latest`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    def __str__(self) -> str:
        """The shortest form that Ollama displays: always model and tag, the rest only where it differs."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelName) and self._folded == other._folded

    def __hash__(self) -> int:
        return hash(self._folded)

    @property
    def _folded(self) -> str:
        return self.full.lower()
