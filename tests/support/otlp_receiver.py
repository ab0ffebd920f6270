"""A collector: takes OTLP over HTTP on loopback, as any OpenTelemetry exporter sends it, and keeps the spans."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True)
class ReceivedSpan:
    """`service`: the resource's attributes; ids in hex, `parent` "" for the first of a trace."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    status: int
    attributes: dict[str, Any]
    events: tuple[str, ...]
    service: dict[str, Any]

    @property
    def node(self) -> str:
        return str(self.service["service.instance.id"])

    @property
    def role(self) -> str:
        return str(self.attributes["ayni.role"])


@dataclass
class OtlpReceiver:
    url: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def until(self, condition: Callable[[list[ReceivedSpan]], Any], limit_s: float = 20.0) -> list[ReceivedSpan]:
        """Wait for spans, which are sent in batches; all that have come once they satisfy."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if condition(spans := list(self.spans)):
                return spans
            time.sleep(0.05)
        raise AssertionError(f"not the expected spans within {limit_s} s: {self.spans}")

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        ReceivedSpan(
                            name=span.name,
                            kind=span.kind,
                            trace=span.trace_id.hex(),
                            id=span.span_id.hex(),
                            parent=span.parent_span_id.hex(),
                            status=span.status.code,
                            attributes=_attributes(span.attributes),
                            events=tuple(event.name for event in span.events),
                            service=service,
                        )
                    )
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """A running one; in a thread, for tests that do not run a loop."""
    receiver, loop, ready, stop = OtlpReceiver(), asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/traces", receiver.take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield receiver
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs if isinstance(pair, KeyValue)}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)
