"""What can go wrong with an output format.

InvalidSchema     a JSON schema that is malformed, or that no grammar can guarantee
"""

from __future__ import annotations


class InvalidSchema(Exception):
    """A schema that can't be promised to hold; `path` is a JSON pointer into it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"invalid JSON schema at {self.path or '/'}: {self.reason}"
