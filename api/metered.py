"""Which paths make a model work: what counts against a token's rates, and what is watched from arrival to end."""

from __future__ import annotations

from typing import Final

METERED: Final = frozenset(
    {
        "/api/generate",
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
    }
)
