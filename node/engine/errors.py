"""What can go wrong in the engine.

EngineError
├── LoadError        the model, its context or an adapter can't be loaded
├── JobError         this one job can't be served; carries the kind that `Failed` reports
└── DecodeError      llama.cpp failed on a batch; every job with tokens in its memory is affected
"""

from __future__ import annotations

from node.jobs import FailureKind


class EngineError(Exception):
    """Base of everything the engine raises on purpose."""


class LoadError(EngineError):
    """The model can't be loaded; the message is meant for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class JobError(EngineError):
    """This job can't be served; the message is meant for its client."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(kind, message)
        self.kind: FailureKind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


class DecodeError(EngineError):
    """llama_decode or llama_encode refused a batch; `code` is what it returned."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"llama.cpp failed on a batch (code {self.code})"
