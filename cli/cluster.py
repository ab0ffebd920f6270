"""The verbs about who is in the cluster: create, invite, join, status, leave, remove, rename, nodes, discover."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

from cli.client import Client
from cli.errors import CommandError, UsageError
from cli.fields import count_of, list_of, object_of, text_of
from cli.start import ensure_node
from cli.terminal import stderr_spinner
from cli.text import cell, human_bytes, json_text, parse_time, render_table
from node.settings import Settings

INVITATION_START = "ayni-join-"
MAX_INVITATION_CHARS = 16 * 1024
# Joining dials every address of the invitation, each for seconds, and then starts what a member runs.
JOIN_LIMIT_S = 120.0
LAN_PORT = 11435


def create_cluster(client: Client, settings: Settings, name: str) -> None:
    """Make this machine the first of a new cluster; starts a node where none answers."""
    ensure_node(client, settings)
    with stderr_spinner("creating"):
        made = client.ask("POST", "/api/cluster", {"name": name}, timeout_s=JOIN_LIMIT_S)
    print(f"created cluster '{cell(text_of(made, 'name') or name)}'")
    print("To add a machine: run `ayni cluster invite` here, and `ayni join` with its line there.", file=sys.stderr)


def invite(client: Client, *, expires_s: int | None, uses: int | None, plain: bool) -> None:
    """Print one line that lets a machine join: alone on stdout, so that it can be piped.

    Args:
        plain: who joins by it does not get the cluster's root key.
    """
    keeper = False if plain else None
    asked = (("expires_s", expires_s), ("uses", uses), ("keeper", keeper))
    body = {key: value for key, value in asked if value is not None}
    made = client.ask("POST", "/api/cluster/invitations", body)
    if not (line := text_of(made, "invitation")):
        raise CommandError("the node answered without an invitation")
    print(cell(line), flush=True)
    times = "once" if uses in (None, 1) else f"{uses} times"
    end = parse_time(made.get("expires_at"))
    until = f" until {end.astimezone():%Y-%m-%d %H:%M}" if end else ""
    print(
        f"\nWhoever has this line can join {times}{until}, and a member can run programs on every other: keep it to "
        "yourself.\nOn the other machine run `ayni join` and paste it there, or: "
        "ayni cluster invite | ssh OTHER ayni join -",
        file=sys.stderr,
    )


def join(client: Client, settings: Settings, words: list[str]) -> None:
    """Enter a cluster with an invitation; starts a node where none answers.

    Args:
        words: the line, as a terminal may have split it; none or "-": it is read from stdin, so that no other user
            of this machine sees it in the list of processes.
    """
    line = "".join("".join(words).split())
    if line in ("", "-"):
        line = _read_invitation()
    if not line.startswith(INVITATION_START):
        raise UsageError("this is no invitation", f"It is one line that begins with {INVITATION_START}")
    ensure_node(client, settings)
    with stderr_spinner("joining"):
        joined = client.ask("POST", "/api/cluster/join", {"invitation": line}, timeout_s=JOIN_LIMIT_S)
    print(f"joined cluster '{cell(text_of(joined, 'name'))}'")
    print("See its machines with: ayni nodes", file=sys.stderr)


def _read_invitation() -> str:
    if sys.stdin.isatty():
        print("Paste the invitation and press Enter:", file=sys.stderr)
        return "".join(sys.stdin.readline(MAX_INVITATION_CHARS).split())
    return "".join(sys.stdin.read(MAX_INVITATION_CHARS).split())


def show_status(client: Client, *, as_json: bool = False) -> None:
    """Print what this machine is part of. Raises CommandError: of nothing, and it is not for a program to read."""
    cluster = client.ask("GET", "/api/cluster")
    if as_json:
        sys.stdout.write(json_text(cluster))
        return
    if cluster.get("member") is not True:
        reason = cell(text_of(cluster, "reason")) or "this machine belongs to no cluster"
        raise CommandError(reason, "See: ayni cluster create, ayni join")
    if cluster.get("active") is not True:
        raise CommandError(f"not in the cluster yet: {cell(text_of(cluster, 'reason')) or 'it is just being started'}")
    discovery = object_of(cluster, "discovery")
    rows = [
        ("cluster", f"{text_of(cluster, 'name')} ({text_of(cluster, 'id')})"),
        ("this machine", f"{text_of(cluster, 'node_name')} ({text_of(cluster, 'node')}), {text_of(cluster, 'state')}"),
        ("reached at", ", ".join(text for text in list_of(cluster, "addresses") if isinstance(text, str))),
        ("root key", "here too" if cluster.get("keeper") is True else "not here: this machine can't invite"),
        ("certificate", f"until {_day(cluster.get('certificate_expires_at'))}, renewed by itself"),
        ("machines", f"{count_of(cluster, 'nodes_up')} of {count_of(cluster, 'nodes')} up"),
        ("head", text_of(cluster, "head") or "none"),
        ("discovery", f"{text_of(discovery, 'state')} {text_of(discovery, 'reason')}".strip()),
        ("ray", _ray(object_of(cluster, "ray"))),
        ("clients", cluster_url(cluster)),
    ]
    sys.stdout.write(render_table((), [row for row in rows if row[1]]))


def _ray(ray: dict[str, Any]) -> str:
    generation = count_of(ray, "generation")
    words = (text_of(ray, "state"), f"generation {generation}" if generation else "", text_of(ray, "reason"))
    return ", ".join(word for word in words if word)


def _day(value: object) -> str:
    moment = parse_time(value)
    return f"{moment.astimezone():%Y-%m-%d}" if moment else "?"


def cluster_url(cluster: dict[str, Any]) -> str:
    """Where clients on the LAN reach the cluster: by name where mDNS tells it, else at this machine's address."""
    address = next((text for text in list_of(cluster, "addresses") if isinstance(text, str)), "")
    port = address.rpartition(":")[2] or str(LAN_PORT)
    by_name = text_of(object_of(cluster, "discovery"), "state") == "on" or not address
    return f"https://{text_of(cluster, 'name')}.local:{port}" if by_name else f"https://{address}"


def leave(client: Client) -> None:
    """Take this machine out of its cluster."""
    with stderr_spinner("leaving"):
        left = client.ask("DELETE", "/api/cluster", timeout_s=JOIN_LIMIT_S)
    print("left the cluster; this machine goes on alone")
    if left.get("told") is False:
        print(
            "No other machine of the cluster was told: they list this one as lost, and its certificate still counts.\n"
            "On one of them run: ayni cluster remove NAME",
            file=sys.stderr,
        )


def remove(client: Client, node: str) -> None:
    """Take another machine out of the cluster, for good."""
    client.ask("DELETE", f"/api/cluster/nodes/{quote(node, safe='')}", timeout_s=JOIN_LIMIT_S)
    print(f"removed '{cell(node)}': its certificate counts no longer, and every open invitation was withdrawn")


def rename(client: Client, name: str) -> None:
    """Give the cluster another name, and so another host name to clients."""
    renamed = client.ask("PATCH", "/api/cluster", {"name": name})
    print(f"renamed the cluster to '{cell(text_of(renamed, 'name') or name)}'")


def list_nodes(client: Client, *, as_json: bool = False) -> None:
    """Print the cluster's machines."""
    answer = client.ask("GET", "/api/cluster/nodes")
    if as_json:
        sys.stdout.write(json_text(answer))
        return
    nodes = list_of(answer, "nodes")
    header = ("NAME", "STATE", "ROLE", "DEVICES", "RAM FREE", "IN MEMORY", "VERSION", "ADDRESS", "ID")
    sys.stdout.write(render_table(header, [_node_row(node) for node in nodes if isinstance(node, dict)]))


def _node_row(node: dict[str, Any]) -> tuple[str, ...]:
    roles = [word for key, word in (("head", "head"), ("me", "this machine")) if node.get(key) is True]
    resident = [text_of(model, "name") for model in list_of(node, "resident") if isinstance(model, dict)]
    return (
        text_of(node, "name"),
        text_of(node, "state"),
        ", ".join(roles) or "-",
        _devices(node),
        _of_total(count_of(node, "ram_free_bytes"), count_of(node, "ram_total_bytes")),
        ", ".join(resident) or "-",
        text_of(node, "version"),
        text_of(node, "address"),
        text_of(node, "id"),
    )


def _devices(node: dict[str, Any]) -> str:
    if text_of(node, "state") == "lost":
        return "-"
    devices = [device for device in list_of(node, "devices") if isinstance(device, dict)]
    shown = (
        f"{text_of(device, 'name')} {_of_total(count_of(device, 'free_bytes'), count_of(device, 'total_bytes'))} free"
        for device in devices
    )
    return ", ".join(shown) or "CPU"


def _of_total(free_bytes: int, total_bytes: int) -> str:
    return f"{human_bytes(free_bytes)} of {human_bytes(total_bytes)}" if total_bytes else "-"


def discover(client: Client, *, as_json: bool = False) -> None:
    """Print the machines that announce themselves, and what can be done with each."""
    answer = client.ask("GET", "/api/cluster/discover")
    if as_json:
        sys.stdout.write(json_text(answer))
        return
    seen = [machine for machine in list_of(answer, "seen") if isinstance(machine, dict)]
    rows = [
        (
            text_of(machine, "name"),
            text_of(machine, "cluster") or "-",
            text_of(machine, "address") or "-",
            text_of(machine, "version") or "-",
            "yes" if machine.get("joinable") is True else "no",
            text_of(machine, "reason"),
        )
        for machine in seen
    ]
    sys.stdout.write(render_table(("NAME", "CLUSTER", "ADDRESS", "VERSION", "JOINABLE", "WHY"), rows))
    if reason := cell(text_of(answer, "reason")):
        print(f"This machine can't look: {reason}. `ayni join` works without it.", file=sys.stderr)
    elif not rows:
        print("No machine announces itself. Multicast may be blocked: `ayni join` works without it.", file=sys.stderr)
