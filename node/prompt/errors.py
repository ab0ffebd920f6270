"""What can go wrong with a chat template.

TemplateError     the template can't be parsed, can't be rendered, or refuses these messages
"""

from __future__ import annotations


class TemplateError(Exception):
    """A template was refused, or itself refused the messages; the message is meant for the client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message
