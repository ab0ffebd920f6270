"""What Prometheus asks for."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.respond import daemon_of

router = APIRouter()


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The counts of this daemon and how things stand now, as text or OpenMetrics."""
    from api import metrics_page  # with its library: most daemons are never asked

    daemon = daemon_of(request)
    gauges = await metrics_page.gauges(daemon)
    render = metrics_page.render
    node = metrics_page.node_name(daemon)
    body, media_type = await asyncio.to_thread(
        render, daemon.telemetry.metrics.registry, gauges, node, request.headers.get("accept", "")
    )
    return Response(body, media_type=media_type)
