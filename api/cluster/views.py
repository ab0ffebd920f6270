"""The cluster as JSON: values in, plain objects out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from api.clock import FOREVER, time_text

if TYPE_CHECKING:
    from api.cluster.member import ClusterNode
    from node.identity import Grant
    from node.peers import Member
    from node.report import NodeReport, ResidentModel


def status(member: ClusterNode) -> dict[str, Any]:
    """This machine's cluster."""
    identity, report, view = member.identity, member.report(), member.view.now
    up = [each for each in view.nodes.values() if each.state != "lost"]
    head = next((each.name for each in up if each.head), None)
    return {
        "member": True,
        "active": True,
        "name": identity.cluster_name,
        "id": identity.cluster_id,
        "node": identity.node_id,
        "node_name": identity.node_name,
        "version": report.version,
        "addresses": list(member.addresses),
        "port": member.settings.lan_port,
        "state": report.state,
        "head": head,
        "generation": max((each.generation for each in up), default=0),
        "keeper": identity.root is not None,
        "ca": str(identity.ca_path),
        "nodes": 1 + len(member.membership),
        "nodes_up": len(up),
        "certificate_expires_at": time_text(identity.certificate.not_valid_after_utc),
        "ray": member.placing.status if member.placing is not None else _no_ray(member),
        "discovery": {"state": member.finder.state, "reason": member.finder.reason},
    }


def _no_ray(member: ClusterNode) -> dict[str, Any]:
    chosen = member.settings.ray == "off"
    return {"state": "off", "reason": "by the setting ray" if chosen else "it is not installed on this machine"}


def nodes(member: ClusterNode) -> list[dict[str, Any]]:
    """Every member, this one first, then by name."""
    reports = member.view.now.nodes
    mine = _node(member, member.report(), None)
    others = [_node(member, reports.get(other.node), other) for other in member.membership]
    return [mine, *sorted(others, key=lambda node: (node["name"], node["id"]))]


def _node(member: ClusterNode, report: NodeReport | None, other: Member | None) -> dict[str, Any]:
    if other is not None and (report is None or report.state == "lost"):
        return _lost(other, report)
    assert report is not None
    return {
        "id": report.node,
        "name": report.name,
        "state": report.state,
        "reason": other.down_reason if other is not None and other.state == "down" else "",
        "head": report.head,
        "me": report.node == member.me,
        "version": report.version,
        "address": report.address,
        "platform": report.platform,
        "python_version": report.python_version,
        "ray_version": report.ray_version,
        "generation": report.generation,
        "clock_offset_s": round(other.clock_offset_s, 3) if other is not None else 0.0,
        "devices": [
            {"name": device.name, "total_bytes": device.total_bytes, "free_bytes": device.free_bytes}
            for device in report.devices
        ],
        "ram_total_bytes": report.ram.total_bytes,
        "ram_free_bytes": report.ram.free_bytes,
        "resident": [_resident(each) for each in report.resident],
        "models": [held.name for held in report.held if held.is_complete],
    }


def _lost(other: Member, report: NodeReport | None) -> dict[str, Any]:
    """A member that can't be reached. What it did and had free when it was last heard is not so any more."""
    return {
        "id": other.node,
        "name": other.name or other.node,
        "state": "lost",
        "reason": other.down_reason,
        "head": False,
        "me": False,
        "version": report.version if report is not None else "",
        "address": next(iter(other.addresses), ""),
        "devices": [],
        "ram_total_bytes": 0,
        "ram_free_bytes": 0,
        "resident": [],
        "models": [held.name for held in report.held if held.is_complete] if report is not None else [],
    }


def _resident(model: ResidentModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "digest": model.manifest.removeprefix("sha256:"),
        "size_bytes": model.size_bytes,
        "gpu_bytes": model.gpu_bytes,
        "context_tokens": model.context_tokens,
        "parallel": model.parallel,
        "active": model.active,
        "queued": model.queued,
        "backlog_tokens": model.backlog_tokens,
        "cached_prefixes": len(model.prefixes),
        "prefill_tokens_s": round(model.prefill_tokens_s, 1),
        "decode_tokens_s": round(model.decode_tokens_s, 1),
        "pinned": model.pinned,
    }


def loaded_line(model: ResidentModel, node: str, details: object) -> dict[str, Any]:
    """A line of /api/ps for what another node has in memory."""
    now = datetime.now(UTC)
    lasts = model.expires_in_s < (FOREVER - now).total_seconds()
    expires_at = now + timedelta(seconds=model.expires_in_s) if lasts else FOREVER
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size_bytes,
        "digest": model.manifest.removeprefix("sha256:"),
        "details": details,
        "expires_at": time_text(expires_at),
        "size_vram": model.gpu_bytes,
        "context_length": model.context_tokens,
        "node": node,
    }


def tokens(member: ClusterNode) -> list[dict[str, Any]]:
    """Every token that was issued, without its text."""
    ledger = member.identity.ledger
    return [token(grant) | {"revoked": ledger.is_token_revoked(grant.token_id)} for grant in ledger.tokens()]


def token(grant: Grant) -> dict[str, Any]:
    """What a token allows."""
    return {
        "id": grant.token_id,
        "name": grant.name,
        "scopes": list(grant.scopes),
        "models": list(grant.models),
        "rpm": grant.requests_per_minute,
        "tpm": grant.tokens_per_minute,
        "max_parallel": grant.max_parallel,
        "weight": grant.weight,
        "priority": grant.priority,
        "created_at": time_text(datetime.fromtimestamp(grant.issued_at_s, UTC)),
        "expires_at": time_text(datetime.fromtimestamp(grant.expires_at_s, UTC)),
    }
