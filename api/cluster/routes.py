"""The cluster's own endpoints: make one, invite, join, look, leave; tokens; why a request goes where.

On loopback for the machine's user, on the LAN port for "admin" tokens and other nodes. Light to import: what a
cluster consists of is imported by the first request that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.body import json_body
from api.cluster.bodies import (
    CreateClusterBody,
    DrainBody,
    ExplainBody,
    InviteBody,
    JoinBody,
    PinBody,
    TokenBody,
)
from api.errors import Conflict, NotOffered
from api.respond import daemon_of, json_response

if TYPE_CHECKING:
    from api.cluster.host import ClusterHost
    from api.cluster.member import ClusterNode

router = APIRouter(prefix="/api/cluster")


@router.post("")
async def create(request: Request, body: Annotated[CreateClusterBody, json_body(CreateClusterBody)]) -> Response:
    """Make a cluster with this machine as its first member."""
    from api.cluster import views
    from api.cluster.errors import in_words

    with in_words():
        member = await _host(request).create(body.name)
    return json_response(views.status(member))


@router.get("")
async def status(request: Request) -> Response:
    """Whether this machine is in a cluster, and how that stands."""
    host = _host(request)
    if host.member is None:
        return json_response({"member": host.belongs, "active": False, "reason": host.trouble})
    from api.cluster import views

    return json_response(views.status(host.member))


@router.patch("")
async def rename(request: Request, body: Annotated[CreateClusterBody, json_body(CreateClusterBody)]) -> Response:
    """Give the cluster another name."""
    member = _member(request)
    from api.cluster import actions, views

    actions.rename(member, body.name)
    return json_response(views.status(member))


@router.delete("")
async def leave(request: Request) -> Response:
    """Belong to no cluster any more; the others revoke this machine's certificate, if one of them can be told."""
    told = await _host(request).leave()
    return json_response({"member": False, "active": False, "reason": "", "told": told})


@router.post("/join")
async def join(request: Request, body: Annotated[JoinBody, json_body(JoinBody)]) -> Response:
    """Enter a cluster by invitation."""
    from api.cluster import views
    from api.cluster.errors import in_words

    with in_words():
        member = await _host(request).join(body.invitation)
    return json_response(views.status(member))


@router.post("/invitations")
async def invite(request: Request, body: Annotated[InviteBody, json_body(InviteBody)]) -> Response:
    """Make an invitation: one line for one machine or several."""
    member = _member(request)
    from api.cluster import actions

    return json_response(actions.invite(member, expires_s=body.expires_s, uses=body.uses, keeper=body.keeper))


@router.get("/nodes")
async def nodes(request: Request) -> Response:
    """All members and how they are."""
    member = _member(request)
    from api.cluster import views

    return json_response({"nodes": views.nodes(member)})


@router.delete("/nodes/{node:path}")
async def remove_node(request: Request, node: str) -> Response:
    """Remove another member: its certificate counts no longer."""
    member = _member(request)
    from api.cluster import actions

    found = actions.find_node(member, node)
    actions.remove(member, found)
    return json_response({"removed": found})


@router.post("/nodes/{node:path}/drain")
async def drain(request: Request, node: str, body: Annotated[DrainBody, json_body(DrainBody)]) -> Response:
    """Have a member take no new work, or take it again."""
    member = _member(request)
    from api.cluster import actions

    found = actions.find_node(member, node)
    await actions.drain(member, found, on=body.drain)
    return json_response({"node": found, "state": "draining" if body.drain else "up"})


@router.get("/discover")
async def discover(request: Request) -> Response:
    """What mDNS shows, and why a machine is or isn't joinable."""
    from api.cluster import actions

    return json_response(await actions.discover(_host(request), daemon_of(request)))


@router.post("/tokens")
async def create_token(request: Request, body: Annotated[TokenBody, json_body(TokenBody)]) -> Response:
    """Issue a token; its text is shown here and never again."""
    member = _member(request)
    from api.cluster import actions

    return json_response(actions.create_token(member, body))


@router.get("/tokens")
async def list_tokens(request: Request) -> Response:
    """The tokens that were issued and have not long expired."""
    member = _member(request)
    from api.cluster import views

    return json_response({"tokens": views.tokens(member)})


@router.delete("/tokens/{token:path}")
async def revoke_token(request: Request, token: str) -> Response:
    """Revoke a token, by its id or its name."""
    member = _member(request)
    from api.cluster import actions

    return json_response({"revoked": actions.revoke_token(member, token)})


@router.post("/explain")
async def explain(request: Request, body: Annotated[ExplainBody, json_body(ExplainBody)]) -> Response:
    """Where a request for the model would go, and why."""
    member = _member(request)
    from api.cluster import actions

    known = await daemon_of(request).shelf.find(body.model)
    return json_response(actions.explain(member, known, prompt_tokens=body.prompt_tokens, context_tokens=body.num_ctx))


@router.post("/pins")
async def pin(request: Request, body: Annotated[PinBody, json_body(PinBody)]) -> Response:
    """Keep a model in memory, on these nodes or where it is best."""
    member = _member(request)
    from api.cluster import actions

    known = await daemon_of(request).shelf.find(body.model)
    return json_response({"model": str(known.model.name), "nodes": await actions.pin(member, known, body.nodes)})


@router.delete("/pins/{model:path}")
async def unpin(request: Request, model: str) -> Response:
    """Let a model go like any other, on all nodes."""
    member = _member(request)
    from api.cluster import actions

    known = await daemon_of(request).shelf.find(model)
    return json_response({"model": str(known.model.name), "nodes": await actions.unpin(member, known)})


def _host(request: Request) -> ClusterHost:
    if (host := daemon_of(request).cluster) is None:
        raise NotOffered("this daemon takes part in no cluster")
    return host


def _member(request: Request) -> ClusterNode:
    host = _host(request)
    if host.member is not None:
        return host.member
    if host.belongs:
        raise Conflict(f"not in the cluster yet: {host.trouble or 'it is just being started'}")
    why = host.trouble or "this machine belongs to no cluster"
    raise Conflict(f"{why}; see `ayni cluster create` and `ayni join`")
