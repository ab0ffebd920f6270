"""What people ask of the cluster, carried out on this member; raises ApiError, and NodeError where nodes refuse."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from api.clock import time_text
from api.cluster import views
from api.cluster.errors import in_words
from api.cluster.lan_sockets import lan_hosts
from api.cluster.pins import Pin, PinAnswer
from api.errors import BadRequest, Conflict, OutOfReach, UnknownItem
from api.options import merge_options
from coordinator.cost import RouteRequest
from coordinator.explain import explain_lines, explain_refusal
from coordinator.route import Refusal, choose_route, consider
from node.discovery import Myself, NoMulticast, interfaces_in_use, judge_all, look_around
from node.errors import NodeError
from node.identity import issue_token
from node.peers import CallRefused, ModelNotThere, PeerError, PeerLost, PeerRefused, PeerUnreachable
from node.report import WeightsDigest
from registry import ModelNotFound, RegistryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.cluster.bodies import TokenBody
    from api.cluster.host import ClusterHost
    from api.cluster.member import ClusterNode
    from api.daemon import Daemon, KnownModel
    from node.identity import NodeId
    from node.supervisor import LoadOptions
    from registry import Model

LISTEN_S = 2.0


def rename(member: ClusterNode, name: str) -> None:
    """Name the cluster anew."""
    with in_words():
        member.identity.ledger.name_cluster(member.identity.need_root(), name, now_s=time.time())
    member.ledger_changed()


def invite(member: ClusterNode, *, expires_s: float, uses: int, keeper: bool) -> dict[str, Any]:
    """Make an invitation; `keeper`: who joins by it gets the root key. Raises Conflict: nobody could use it."""
    if not lan_hosts(member.settings):
        raise Conflict("this machine has no network; see the settings lan_host and interfaces")
    try:
        with in_words():
            invitation = member.identity.invite(
                member.addresses[:16], lifetime_s=expires_s, now_s=time.time(), uses=uses, keeper=keeper
            )
    except ValueError as error:
        raise BadRequest(str(error)) from None
    expires_at = datetime.fromtimestamp(invitation.expires_at_s, UTC)
    return {"invitation": invitation.text, "expires_at": time_text(expires_at), "uses": uses, "keeper": keeper}


def find_node(member: ClusterNode, text: str) -> NodeId:
    """A member by its id, its name, or the beginning of its id. Raises UnknownItem, Conflict: several have it."""
    names = {each.node: each.name for each in member.membership} | {member.me: member.identity.node_name}
    found = [node for node, name in names.items() if node == text]
    found = found or [node for node, name in names.items() if name.casefold() == text.casefold()]
    found = found or [node for node in names if len(text) >= 4 and node.startswith(text.lower())]
    if not found:
        raise UnknownItem("node", text)
    if len(found) > 1:
        raise Conflict(f"several nodes are called '{text[:64]}'; use an id: {', '.join(sorted(found))}")
    return found[0]


def remove(member: ClusterNode, node: NodeId) -> None:
    """Remove another member. Raises Conflict: it is this one, which leaves rather than being removed by itself."""
    if node == member.me:
        raise Conflict("this is the machine itself that is asked; to take it out, run `ayni cluster leave` on it")
    with in_words():
        member.remove(node)


async def drain(member: ClusterNode, node: NodeId, *, on: bool) -> None:
    """Drain a member, or end that. Raises OutOfReach."""
    _need_up(member, node)
    try:
        await member.drain_node(node, on=on)
    except PeerError as error:
        raise OutOfReach(f"'{_name_of(member, node)}' can't be told: {_without_id(error)}") from None


async def discover(host: ClusterHost, daemon: Daemon) -> dict[str, Any]:
    """What is announced on this network now, judged."""
    member = host.member
    if member is not None and member.finder.state == "on":
        sightings, me, reason = member.finder.sightings, member.finder.myself(), ""
    else:
        me = member.finder.myself() if member is not None else Myself(version=daemon.version)
        try:
            settings = daemon.settings
            sightings = await look_around(lambda: interfaces_in_use(settings.interfaces), LISTEN_S)
            reason = ""
        except NoMulticast as error:
            sightings, reason = (), str(error)
    seen = []
    for finding in judge_all(sightings, me):
        advert = finding.sighting.advert
        address = next(iter(finding.sighting.addresses), "")
        seen.append(
            {
                "name": advert.node_name if advert else finding.sighting.instance,
                "address": f"{f'[{address}]' if ':' in address else address}:{advert.port}" if advert else address,
                "cluster": advert.cluster_name if advert else "",
                "version": advert.version if advert else "",
                "standing": finding.standing,
                "joinable": finding.standing == "joinable",
                "reason": finding.reason,
            }
        )
    return {"seen": seen, "reason": reason}


def create_token(member: ClusterNode, body: TokenBody) -> dict[str, Any]:
    """Issue a token."""
    identity = member.identity
    with in_words():
        root = identity.need_root()
        try:
            issued = issue_token(
                root,
                body.name,
                scopes=body.scopes,
                lifetime_s=body.expires_s,
                now_s=time.time(),
                models=body.models,
                requests_per_minute=body.rpm,
                tokens_per_minute=body.tpm,
                max_parallel=body.max_parallel,
                weight=body.weight,
                priority=body.priority,
            )
        except (ValueError, msgspec.ValidationError) as error:
            raise BadRequest(str(error)) from None
        identity.ledger.list_token(root, issued.grant, now_s=time.time())
    member.ledger_changed()
    return {"token": issued.text} | views.token(issued.grant)


def revoke_token(member: ClusterNode, text: str) -> list[str]:
    """Revoke the token of this id, or all of this name. Returns: their ids."""
    ledger = member.identity.ledger
    granted = ledger.tokens()
    found = [g.token_id for g in granted if g.token_id == text] or [g.token_id for g in granted if g.name == text]
    if not found:
        raise UnknownItem("token", text)
    with in_words():
        root = member.identity.need_root()
        for token_id in found:
            if not ledger.is_token_revoked(token_id):
                ledger.revoke_token(root, token_id, now_s=time.time())
    member.ledger_changed()
    return found


def explain(
    member: ClusterNode, known: KnownModel, *, prompt_tokens: int, context_tokens: int | None
) -> dict[str, Any]:
    """Where a request would go now, and why."""
    member.report()  # so that this node's own line is as fresh as the others'
    view, request = member.view.now, _request(known, prompt_tokens, context_tokens)
    route = choose_route(view, request)
    lines = explain_lines(view, request)
    if isinstance(route, Refusal):
        return {"model": str(known.model.name), "lines": lines, "node": None, "reason": explain_refusal(route)}
    return {
        "model": str(known.model.name),
        "lines": lines,
        "node": view.nodes[route.node].name,
        "node_id": route.node,
        "kind": route.kind,
        "terms": route.terms._asdict(),
        "cached_tokens": route.cached_tokens,
        "candidates": [
            {"node": each.name, "node_id": each.node, "kind": each.kind, "terms": each.terms._asdict()}
            for each in consider(view, request)[0]
        ],
    }


async def pin(member: ClusterNode, known: KnownModel, nodes: Sequence[str]) -> list[str]:
    """Pin a model. Returns: the names of the nodes that keep it now.

    Raises: OutOfReach: one of the nodes can't be reached, so none was asked; Conflict: why it is not pinned, or where
        it is and why not on the others.
    """
    if nodes:
        chosen = list(dict.fromkeys(find_node(member, text) for text in nodes))
    else:
        route = choose_route(member.view.now, _request(known, 0, None))
        if isinstance(route, Refusal):
            raise Conflict(explain_refusal(route))
        chosen = [route.node]
    for node in chosen:
        _need_up(member, node)
    outcomes = await asyncio.gather(*(_load_and_pin(member, node, known) for node in chosen))
    pinned = [_name_of(member, node) for node, failure in zip(chosen, outcomes, strict=True) if not failure]
    if failures := [failure for failure in outcomes if failure]:
        raise Conflict("; ".join(failures) + (f"; it is pinned on {', '.join(pinned)}" if pinned else ""))
    return pinned


async def _load_and_pin(member: ClusterNode, node: NodeId, known: KnownModel) -> str:
    """Have a node keep a model that it has been able to load; one that is drained will load it later.

    Returns: why it does not; "": it does.
    """
    model, name = known.model, _name_of(member, node)
    serves = member.measured if node == member.me else member.peers.node(node)
    report = member.view.now.nodes.get(node)
    try:
        if report is not None and report.state == "up":
            await serves.load(model, _load_options(model), embedding="completion" not in known.capabilities)
        await _tell_pin(member, node, Pin(name=model.name.full, pinned=True))
    except (NodeError, RegistryError) as error:
        return f"'{name}' can't keep model '{model.name}': {_without_id(error)}"
    return ""


def _without_id(error: Exception) -> str:
    """What a node answered, for a sentence that names the node already."""
    match error:
        case ModelNotFound() | ModelNotThere() | PeerRefused(status=404) | CallRefused(status=404):
            return "it is not stored there"
        case PeerUnreachable() | PeerLost() | PeerRefused():
            return error.reason
    return str(error)


async def unpin(member: ClusterNode, known: KnownModel) -> list[str]:
    """Unpin a model wherever it is pinned and can be reached. Returns: the names of the nodes that were told."""
    up = [member.me, *(each.node for each in member.membership if each.state == "up")]
    order = Pin(name=known.model.name.full, pinned=False)
    outcomes = await asyncio.gather(*(_tell_pin(member, node, order) for node in up), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, NodeError):
            raise outcome
    told = [node for node, outcome in zip(up, outcomes, strict=True) if isinstance(outcome, PinAnswer)]
    return [_name_of(member, node) for node in told]


async def _tell_pin(member: ClusterNode, node: NodeId, order: Pin) -> PinAnswer:
    if node == member.me:
        return await member.pins.answer(None, order)
    return await member.peers.call(node, "pin", order, PinAnswer)


def _name_of(member: ClusterNode, node: NodeId) -> str:
    if (report := member.view.now.nodes.get(node)) is not None:
        return report.name
    other = member.membership.get(node)
    return other.name if other is not None and other.name else node


def _need_up(member: ClusterNode, node: NodeId) -> None:
    """Raises OutOfReach: the node is known not to answer, so that nobody has to wait until it does not."""
    if node != member.me and not member.membership.is_up(node):
        other = member.membership.get(node)
        reason = f" ({other.down_reason})" if other is not None else ""
        raise OutOfReach(f"'{_name_of(member, node)}' can't be reached{reason}")


def _load_options(model: Model, context_tokens: int | None = None) -> LoadOptions:
    """As a request that names no option but this one would load the model."""
    return merge_options(model.parameters, {"num_ctx": context_tokens}).load_options()


def _request(known: KnownModel, prompt_tokens: int, context_tokens: int | None) -> RouteRequest:
    return RouteRequest(
        model=WeightsDigest(str(known.model.weights_digest)),
        prompt_tokens=prompt_tokens,
        context_tokens=_load_options(known.model, context_tokens).num_ctx,
        embedding=False,
        may_wait=True,
    )
