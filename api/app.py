"""The application: all routes, the gate before them, and one place where errors become answers."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from api import metrics_routes, model_routes, native_routes, openai_routes
from api.body import MOST_LONG_BODIES, BodyRoom
from api.cluster import routes as cluster_routes
from api.daemon import Daemon
from api.errors import EXPECTED_ERRORS, Fault, NoSuchRoute, WrongMethod, fault_of
from api.gate import AnyHost, Gate, HostRule, OriginRule
from api.own_user import OwnUserGate
from api.request_record import CLIENT_LEFT, note_error
from api.request_watch import RequestWatch
from api.stream import ClientGone, fault_response

log = logging.getLogger(__name__)

ROUTERS = tuple(
    routes.router for routes in (model_routes, native_routes, openai_routes, cluster_routes, metrics_routes)
)
# FastAPI can report to OpenTelemetry by itself, request bodies included: never here.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(daemon: Daemon) -> FastAPI:
    """The HTTP application of one daemon, for its plain port."""
    app = _routes(daemon)
    app.add_middleware(OwnUserGate, key=daemon.key)
    return _guarded(app, daemon, HostRule(daemon.bound_host, daemon.settings.allowed_hosts))


def create_lan_app(daemon: Daemon) -> FastAPI:
    """The same for the LAN port, where a credential comes with each request and so any name will do."""
    return _guarded(_routes(daemon), daemon, AnyHost())


def _routes(daemon: Daemon) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, telemetry=NO_TELEMETRY)
    app.state.daemon = daemon
    app.state.body_room = BodyRoom(MOST_LONG_BODIES * daemon.settings.max_body_bytes)
    for router in ROUTERS:
        app.include_router(router)
    for kind in EXPECTED_ERRORS:
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(HTTPException, _answer_routing_error)
    app.add_exception_handler(ClientGone, _answer_nobody)
    app.add_exception_handler(Exception, _answer_bug)
    return app


def _guarded(app: FastAPI, daemon: Daemon, hosts: HostRule | AnyHost) -> FastAPI:
    """With the layers that every port has around it."""
    app.add_middleware(
        Gate,
        hosts=hosts,
        origins=OriginRule(daemon.settings.allowed_origins),
    )
    app.add_middleware(RequestWatch, telemetry=daemon.telemetry)
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    fault = fault_of(error)
    if not note_error(error, fault.status):
        level = logging.WARNING if fault.status >= 500 else logging.DEBUG
        log.log(level, "refused path=%s status=%d error=%s", request.url.path, fault.status, type(error).__name__)
    return fault_response(fault, request.url.path)


async def _answer_routing_error(request: Request, error: Exception) -> Response:
    path = request.url.path
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return fault_response(fault_of(WrongMethod(request.method, _allowed_methods(request))), path)
    if error.status_code == 404:
        return fault_response(fault_of(NoSuchRoute(path)), path)
    return fault_response(Fault(error.status_code, error.detail), path)


def _allowed_methods(request: Request) -> str:
    """What the path is served with; each route knows only its own methods."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in matching for method in route.methods or ()}))


async def _answer_nobody(request: Request, error: Exception) -> Response:
    note_error(error, CLIENT_LEFT)
    return Response(status_code=CLIENT_LEFT)


async def _answer_bug(request: Request, error: Exception) -> Response:
    """The traceback goes to the log, by way of the server."""
    return fault_response(Fault(500, "internal error; the log of the daemon says more"), request.url.path)
