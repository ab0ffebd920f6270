"""The verbs about tokens, with which people and programs use the cluster from machines that are no members."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from cli.client import Client
from cli.cluster import cluster_url
from cli.errors import CommandError
from cli.fields import count_of, list_of, text_of
from cli.text import cell, human_time, json_text, parse_time, render_table

LIMITS = (("rpm", "requests/min"), ("tpm", "tokens/min"), ("max_parallel", "at once"))
USUAL = {"weight": 1, "priority": 0}


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a new token is to allow; None and empty: no limit of its own."""

    name: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    rpm: int | None
    tpm: int | None
    max_parallel: int | None
    expires_s: int
    weight: float | None
    priority: int | None

    def body(self) -> dict[str, Any]:
        """The request's fields; those that say nothing are left out."""
        fields = {
            "name": self.name,
            "scopes": list(self.scopes),
            "models": list(self.models),
            "rpm": self.rpm,
            "tpm": self.tpm,
            "max_parallel": self.max_parallel,
            "expires_s": self.expires_s,
            "weight": self.weight,
            "priority": self.priority,
        }
        return {key: value for key, value in fields.items() if value is not None}


def create_token(client: Client, request: TokenRequest) -> None:
    """Print a new token, alone on stdout, and on stderr how clients use it."""
    token = text_of(client.ask("POST", "/api/cluster/tokens", request.body()), "token")
    if not token:
        raise CommandError("the node answered without a token")
    print(cell(token), flush=True)
    cluster = client.ask("GET", "/api/cluster")
    sys.stderr.write(_how_to_use(cluster_url(cluster), cell(text_of(cluster, "ca"))))


def _how_to_use(url: str, certificate: str) -> str:
    return f"""
This is shown only once. Whoever has it may do what it allows: hand it over like a password.
  OpenAI clients    OPENAI_BASE_URL={url}/v1  OPENAI_API_KEY=<token>
  Ollama clients    OLLAMA_HOST={url}  OLLAMA_API_KEY=<token>
  anything else     Authorization: Bearer <token>
Clients have to trust the cluster's certificate, {url}/ca.pem, which is no secret. The node that
was asked keeps it in {certificate}.
Many clients take its path as SSL_CERT_FILE, Node.js as NODE_EXTRA_CA_CERTS.
"""


def list_tokens(client: Client, *, as_json: bool = False) -> None:
    """Print what tokens there are, without their texts, which nobody has kept."""
    answer, now = client.ask("GET", "/api/cluster/tokens"), datetime.now(UTC)
    if as_json:
        sys.stdout.write(json_text(answer))
        return
    tokens = [token for token in list_of(answer, "tokens") if isinstance(token, dict)]
    rows = [
        (
            text_of(token, "name"),
            text_of(token, "id"),
            _words(token, "scopes"),
            _words(token, "models") or "all",
            _limits(token),
            "revoked" if token.get("revoked") is True else human_time(_moment(token.get("expires_at")), now),
        )
        for token in tokens
    ]
    sys.stdout.write(render_table(("NAME", "ID", "SCOPES", "MODELS", "LIMITS", "EXPIRES"), rows))


def revoke_token(client: Client, which: str) -> None:
    """Have a token refused everywhere from now on."""
    client.ask("DELETE", f"/api/cluster/tokens/{quote(which, safe='')}")
    print(f"revoked '{cell(which)}'")


def _words(token: dict[str, Any], key: str) -> str:
    return ", ".join(word for word in list_of(token, key) if isinstance(word, str))


def _limits(token: dict[str, Any]) -> str:
    bounds = [f"{count} {unit}" for key, unit in LIMITS if (count := count_of(token, key))]
    shares = [f"{key} {value:g}" for key, usual in USUAL.items() if (value := token.get(key, usual)) != usual]
    return ", ".join([*bounds, *shares]) or "-"


def _moment(value: object) -> datetime | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC)
    return parse_time(value)
