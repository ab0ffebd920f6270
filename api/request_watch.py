"""Watch every request that makes a model work: one line in the log, counts, a span, and headers that say where it went.

A plain ASGI layer, the outermost one, so that what the gate refuses is seen too. What happens to a stream after its
first bytes can't be in a header; its end has it (api.last_words), and the log.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metered import METERED
from api.request_record import CLIENT_LEFT, REQUEST, RequestRecord
from node.logs import log_event
from node.route_trace import ROUTE_TRACE
from node.telemetry import Telemetry, parse_traceparent, trace_id_of

if TYPE_CHECKING:
    from node.route_trace import RouteTrace

log = logging.getLogger(__name__)

# The scope's entry for the name of the token that a request came with.
ASKER_NAME = "ayni.asker"


class RequestWatch:
    """The layer."""

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and see what becomes of it."""
        if scope["type"] != "http" or scope["path"] not in METERED or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        with self._telemetry.tracer.span(
            f"{scope['method']} {scope['path']}",
            "server",
            parent=_traceparent(scope),
            attributes={
                "http.request.method": scope["method"],
                "http.route": scope["path"],
                "url.path": scope["path"],
                "ayni.role": "answer",
            },
        ) as span:
            record = RequestRecord(scope["path"], span, asker=scope.get(ASKER_NAME, ""))
            REQUEST.set(record)
            ROUTE_TRACE.set(record.route)

            async def watched_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    record.status = record.status or message["status"]
                    if record.route.route:
                        message["headers"] = [*message.get("headers", ()), *_headers(record.route)]
                await send(message)

            try:
                await self._app(scope, receive, watched_send)
            except Exception as error:
                record.fail(error, 500)
                raise
            except BaseException as error:  # the server gives the request up
                record.fail(error, CLIENT_LEFT)
                raise
            finally:
                self._end(record)

    def _end(self, record: RequestRecord) -> None:
        total_s = time.monotonic() - record.started_s
        metrics, model = self._telemetry.metrics, ""
        if record.model:
            model = metrics.model(record.model)
            metrics.request_s.labels(model).observe(total_s)
            if record.first_token_s is not None:
                metrics.first_token_s.labels(model).observe(record.first_token_s)
            for seconds in record.token_s:
                metrics.token_s.labels(model).observe(seconds)
        metrics.requests.labels(record.api, model, str(record.status)).inc()
        _put(record)
        level = logging.WARNING if record.status >= 500 else logging.INFO
        log_event(log, level, _outcome(record), **_fields(record, total_s))


def _traceparent(scope: Scope) -> str:
    """The trace that the client's request belongs to; "": it says nothing, or nothing that makes sense."""
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    return parse_traceparent(found[0].decode("latin-1")) if len(found) == 1 else ""


def _headers(route: RouteTrace) -> list[tuple[bytes, bytes]]:
    found = {"x-ayni-route": route.route, "x-ayni-queue": route.queue, "x-ayni-resumed": str(route.resumed or "")}
    return [(name.encode(), text.encode("ascii", "replace")) for name, text in found.items() if text]


def _put(record: RequestRecord) -> None:
    """Say on the span how it ended."""
    route = record.route
    record.span.put(
        {
            "http.response.status_code": record.status,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
            "ayni.resumes": route.resumed,
            "ayni.queue.wait_s": round(route.waited_s, 6),
        }
    )
    if route.route:
        record.span.put({"ayni.route": route.route, "ayni.node.name": route.node})
    if record.first_token_s is not None:
        record.span.put({"ayni.time_to_first_token_s": round(record.first_token_s, 6)})
    if record.status >= 500:
        record.span.fail(record.error or str(record.status))


def _outcome(record: RequestRecord) -> str:
    if record.status == CLIENT_LEFT:
        return "client left"
    if record.status >= 400:
        return "failed" if record.output_tokens else "refused"
    return "answered"


def _fields(record: RequestRecord, total_s: float) -> dict[str, Any]:
    """What an operator wants to know a week later; nothing is said where there is nothing to say."""
    route = record.route
    fields = {
        "model": record.model,
        "api": record.api,
        "status": record.status,
        "error": record.error,
        "asker": record.asker,
        "node": route.node,
        "kind": route.kind,
        "queue": route.queue,
        "queue_s": round(route.waited_s, 3),
        "resumed": route.resumed,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "output_tokens": record.output_tokens,
        "first_token_s": None if record.first_token_s is None else round(record.first_token_s, 3),
        "total_s": round(total_s, 3),
        "route": route.route,
        "trace": trace_id_of(record.span.traceparent),
    }
    return {key: value for key, value in fields.items() if value not in ("", None, 0)}
