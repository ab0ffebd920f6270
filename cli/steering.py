"""The verbs about where work goes: explain a choice, keep work off a machine, keep a model in memory."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

from cli.client import Client
from cli.errors import CommandError
from cli.fields import list_of
from cli.terminal import stderr_spinner
from cli.text import cell, json_text

# Running answers are moved elsewhere one by one.
DRAIN_LIMIT_S = 120.0


def explain(
    client: Client, model: str, *, prompt_tokens: int | None, num_ctx: int | None, as_json: bool = False
) -> None:
    """Print where a request would go now, with what each machine would cost."""
    body: dict[str, Any] = {"model": model}
    body |= {k: v for k, v in (("prompt_tokens", prompt_tokens), ("num_ctx", num_ctx)) if v is not None}
    answer = client.ask("POST", "/api/cluster/explain", body)
    if as_json:
        sys.stdout.write(json_text(answer))
        return
    lines = [line for line in list_of(answer, "lines") if isinstance(line, str)]
    if not lines:
        raise CommandError("the node gave no explanation")
    for line in lines:
        print(cell(line))


def drain(client: Client, node: str, *, undo: bool) -> None:
    """Have a machine take no new work, and hand over what it is doing; or take it back into service."""
    path = f"/api/cluster/nodes/{quote(node, safe='')}/drain"
    client.ask("POST", path, {"drain": not undo}, timeout_s=DRAIN_LIMIT_S)
    shown = cell(node)
    if undo:
        print(f"'{shown}' takes work again")
    else:
        print(f"'{shown}' takes no new work; undo it with: ayni undrain {shown}")


def pin(client: Client, model: str, nodes: tuple[str, ...]) -> None:
    """Have a model stay in memory: on these machines, or where the cluster thinks best."""
    body = {"model": model} | ({"nodes": list(nodes)} if nodes else {})
    with stderr_spinner("loading"):
        made = client.ask("POST", "/api/cluster/pins", body, timeout_s=None)
    pinned = [node for node in list_of(made, "nodes") if isinstance(node, str)]
    print(f"pinned '{cell(model)}' on {cell(', '.join(pinned))}")


def unpin(client: Client, model: str) -> None:
    """Let a model leave memory again when it is idle."""
    client.ask("DELETE", f"/api/cluster/pins/{quote(model, safe='')}")
    print(f"'{cell(model)}' is pinned no longer")
