"""Request bodies of /api/cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.body import Body

DAY_S = 86400.0


class CreateClusterBody(Body):
    """POST and PATCH /api/cluster."""

    name: str


class InviteBody(Body):
    """POST /api/cluster/invitations; `keeper`: who joins gets the cluster's root key."""

    expires_s: float = 900.0
    uses: int = 1
    keeper: bool = True


class JoinBody(Body):
    """POST /api/cluster/join."""

    invitation: str


class DrainBody(Body):
    """POST /api/cluster/nodes/{node}/drain."""

    drain: bool = True


class TokenBody(Body):
    """POST /api/cluster/tokens; a rate that is left out is not limited.

    Bounds are those of `node.identity.Grant` and `coordinator.queue`, which a machine alone does not import.
    """

    name: str = Field(min_length=1, max_length=128)
    scopes: list[Literal["infer", "models", "metrics", "admin"]] = Field(default=["infer"], min_length=1)
    models: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(default=[], max_length=32)
    rpm: int | None = Field(default=None, ge=1)
    tpm: int | None = Field(default=None, ge=1)
    max_parallel: int | None = Field(default=None, ge=1)
    expires_s: float = Field(default=30 * DAY_S, gt=0)
    weight: float = Field(default=1.0, gt=0, le=1000)
    priority: int = Field(default=0, ge=-4, le=4)


class ExplainBody(Body):
    """POST /api/cluster/explain."""

    model: str
    prompt_tokens: int = Field(default=0, ge=0)
    num_ctx: int | None = Field(default=None, ge=1)


class PinBody(Body):
    """POST /api/cluster/pins; no nodes: where the next request for the model would go."""

    model: str
    nodes: list[str] = Field(default=[])
