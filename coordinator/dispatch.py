"""Carry requests out wherever in the cluster they are best served, and go on elsewhere when that place breaks.

The same methods as one machine's supervisor, so that whatever asks need not know of the cluster. Where to go is
`choose_route`'s decision, what to ask of the next machine is `Stream`'s; this moves events and catches failures:

1. The node or the way to it is lost, its runner died, or it shuts down: another node goes on. If there is none, the
   request waits for one to come (back), within `WAIT_LIMIT_S`.
2. The node refuses (full, no room, model or load trouble): another node, until each that could has refused; then
   the first refusal is the answer. An answer that has begun waits for a full node instead.
3. The job itself failed, or its reader did: nobody could do better.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import msgspec

from coordinator.billing import Spend, billed, billed_embedding
from coordinator.cluster_view import ClusterView
from coordinator.cost import RouteRequest
from coordinator.explain import explain_refusal, route_header
from coordinator.footprints import Footprints
from coordinator.resume import Stream
from coordinator.route import Refusal, Route, choose_route
from coordinator.trail import SECOND_CHANCE_S, Trail
from coordinator.view import WeightsDigest
from node.asker import ASKER
from node.errors import DoesNotFit, NodeError, Unserved
from node.fingerprint import Marks, fingerprint
from node.jobs import Done, Embedded, EmbedJob, Event, Job, Rendered
from node.peers import PeerError, PeerLost
from node.route_trace import ROUTE_TRACE
from node.telemetry import NO_TRACER, Span, Telemetry
from node.telemetry.gen_ai import operation_of, request_attributes

if TYPE_CHECKING:
    from coordinator.limits import LimitTable
    from node.identity import NodeId
    from node.serves import Node, Serves
    from node.supervisor import LoadedModel, LoadOptions
    from registry import Model, ModelName

log = logging.getLogger(__name__)

Result = TypeVar("Result")
AnyJob = TypeVar("AnyJob", Job, EmbedJob)

# How long a request that finds no room waits for loads to end.
LOADING_S = 30.0
# How long a request that lost its node waits for another one to take it.
WAIT_LIMIT_S = 60.0


class Dispatcher:
    """The whole cluster as one node."""

    def __init__(
        self,
        local: Node,
        remote: Callable[[NodeId], Serves],
        cluster: ClusterView,
        footprints: Footprints,
        *,
        limits: LimitTable | None = None,
        place: Callable[[RouteRequest], Awaitable[NodeId | None]] | None = None,
        telemetry: Telemetry | None = None,
        wait_limit_s: float = WAIT_LIMIT_S,
    ) -> None:
        """Start with nothing under way.

        Args:
            remote: another node by its id (`Peers.node`).
            place: asks the coordinator where a model is to be loaded for a request; None: it does not say.
            limits: where the tokens that a signed token's holder uses are counted.
            telemetry: where routes are counted, and attempts traced.
        """
        self._local, self._remote = local, remote
        self._cluster, self._footprints = cluster, footprints
        self._limits, self._place_load = limits, place
        self._telemetry = telemetry or Telemetry()
        self._wait_limit_s = wait_limit_s
        self._given_up = False

    def run(
        self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Generate with the model wherever that begins soonest: `Delta` ... and `Done`, on however many nodes.

        Close the generator to cancel. Raises as `Supervisor.run`, and Unserved: the cluster can't go on with it.
        """
        events, spend = self._run(model, job, options, keep_alive_s), self._purse()
        return events if spend is None else billed(events, job.prompt, spend)

    async def _run(
        self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None
    ) -> AsyncGenerator[Event, None]:
        # Milliseconds on a prompt of a megabyte, and next to nothing on a usual one.
        marks = fingerprint(job.prompt)
        request = await self._request(model, options, marks, embedding=False)
        stream = Stream(job, now_s=time.monotonic(), seed=secrets.randbits(31))
        trail = Trail(self._wait_limit_s)
        while True:
            attempt = stream.begin()
            node, ended = await self._place(model, request, trail)
            if attempt.number > 1:
                log.info("stream goes on node=%s model=%s tokens=%d", node, model.name, len(stream.delivered_tokens))
                self._telemetry.metrics.resumed(str(model.name), trail.last_error)
                if (trace := ROUTE_TRACE.get()) is not None:
                    trace.resumed += 1
            span = self._span(node, model, attempt.job, trail, attempt.number)
            events = self._serves(node).run(model, _traced(attempt.job, span), options, keep_alive_s)
            try:
                with span:
                    async with aclosing(events) as coming:
                        async for event in coming:
                            for passed_on in stream.take(attempt.number, event, time.monotonic()):
                                yield passed_on
                                if isinstance(passed_on, Done):
                                    return
                error: NodeError = PeerLost(node, "its answer ended early")
            except NodeError as failure:
                error = failure
            finally:
                ended()
            self._fail(trail, node, error, fruitful=stream.is_fruitful)

    async def embed(
        self, model: Model, job: EmbedJob, options: LoadOptions, keep_alive_s: float | None = None
    ) -> Embedded:
        """Embed texts. Raises as `run`."""
        work, spend = self._embed(model, job, options, keep_alive_s), self._purse()
        return await (work if spend is None else billed_embedding(work, job, spend))

    async def _embed(self, model: Model, job: EmbedJob, options: LoadOptions, keep_alive_s: float | None) -> Embedded:
        request = await self._request(model, options, Marks(), embedding=True)
        return await self._once(
            model, request, lambda node, span: node.embed(model, _traced(job, span), options, keep_alive_s), job
        )

    async def render(self, model: Model, job: Job, options: LoadOptions, keep_alive_s: float | None = None) -> Rendered:
        """Only render the job's prompt. Raises as `run`."""
        request = await self._request(model, options, Marks(), embedding=False)
        return await self._once(model, request, lambda node, _: node.render(model, job, options, keep_alive_s))

    async def load(
        self, model: Model, options: LoadOptions, keep_alive_s: float | None = None, *, embedding: bool = False
    ) -> LoadedModel:
        """Have the model in memory somewhere. Raises as `run`."""
        request = await self._request(model, options, Marks(), embedding=embedding)
        return await self._once(
            model, request, lambda node, _: node.load(model, options, keep_alive_s, embedding=embedding)
        )

    async def unload(self, name: ModelName) -> bool:
        """Forget the model on every node that has it in memory; False: none has."""
        view = self._cluster.now
        known = {str(name), name.full}
        others = [
            report.node
            for report in view.nodes.values()
            if report.node != view.me and report.state != "lost" and any(r.name in known for r in report.resident)
        ]
        found = await asyncio.gather(
            self._local.unload(name), *(self._remote(node).unload(name) for node in others), return_exceptions=True
        )
        for outcome in found:
            if isinstance(outcome, BaseException) and not isinstance(outcome, NodeError):
                raise outcome
        return any(outcome is True for outcome in found)

    def loaded(self) -> list[LoadedModel]:
        """The models in this machine's memory; those of the others are in the view."""
        return self._local.loaded()

    def give_up(self) -> None:
        """From now on the first failure is the answer: this daemon has no time left to go on elsewhere."""
        self._given_up = True

    async def _once(
        self,
        model: Model,
        request: RouteRequest,
        ask: Callable[[Serves, Span], Awaitable[Result]],
        job: EmbedJob | None = None,
    ) -> Result:
        """Ask one node after the other until one answers; `job`: whose attempts are to be traced."""
        trail = Trail(self._wait_limit_s)
        for number in itertools.count(1):
            node, ended = await self._place(model, request, trail)
            try:
                with self._span(node, model, job, trail, number) as span:
                    return await ask(self._serves(node), span)
            except NodeError as error:
                self._fail(trail, node, error)
            finally:
                ended()
        raise AssertionError("unreachable")

    async def _request(self, model: Model, options: LoadOptions, marks: Marks, *, embedding: bool) -> RouteRequest:
        digest = WeightsDigest(str(model.weights_digest))
        footprint = await self._footprints.of(model, options, embedding=embedding)
        if footprint is None:  # its weights are elsewhere
            held = self._cluster.now.holders(digest).values()
            footprint = next((holder.footprint for holder in held if holder.footprint), None)
        return RouteRequest(
            model=digest,
            prompt_tokens=marks.total_tokens,
            prefix_hashes=marks.hashes,
            prefix_tokens=marks.tokens,
            context_tokens=options.num_ctx,
            parallel=options.parallel,
            embedding=embedding,
            footprint=footprint,
            may_wait=True,
        )

    async def _place(self, model: Model, request: RouteRequest, trail: Trail) -> tuple[NodeId, Callable[[], None]]:
        """The node to ask next, and what to call once it has been. Raises what the client is to be told: nobody can."""
        until_s = time.monotonic() + LOADING_S
        while True:
            view, now_s = self._cluster.now, time.monotonic()
            asked = replace(request, excluded=trail.excluded(now_s))
            route = choose_route(view, asked)
            if isinstance(route, Refusal) and trail.has_lost:
                # It has begun, and is better off on a machine that takes nothing new than nowhere.
                draining = choose_route(view, replace(asked, even_draining=True))
                route = draining if isinstance(draining, Route) else route
            if isinstance(route, Route):
                if route.kind == "load" and route.node not in view.loading(request.model):
                    route = await self._agreed(route, asked)
                return route.node, self._set_out(route, model, request, trail)
            if route.reason in ("unknown_model", "unknown_size") and view.me not in asked.excluded:
                return view.me, lambda: None  # it was found on this machine's disk, whatever the reports say by now
            # While a model is being loaded, some of its bytes count twice: as taken, and as about to be.
            is_momentary = route.reason == "no_room" and any(report.loading for report in view.nodes.values())
            waits = trail.waits(now_s) and not self._given_up
            if not waits and not (is_momentary and now_s < until_s):
                self._telemetry.metrics.not_routed(str(model.name), route.reason)
                raise self._in_words(trail.error() or _refused(route, model))
            await self._cluster.changed(SECOND_CHANCE_S)
            trail.give_second_chance(time.monotonic())

    def _set_out(self, route: Route, model: Model, request: RouteRequest, trail: Trail) -> Callable[[], None]:
        """Note where a request goes, for others and for people. Returns: what to call when it has been there."""
        known = self._cluster.now.nodes.get(route.node)
        name = known.name if known is not None else route.node
        trail.told = route_header(route)
        log.debug('route model=%s node=%s why="%s"', model.name, name, trail.told)
        self._telemetry.metrics.routed(str(model.name), target=name, kind=route.kind)
        if (trace := ROUTE_TRACE.get()) is not None:
            trace.route, trace.node, trace.kind = trail.told, name, route.kind
        return self._cluster.sent(route.node, request.model, request.prompt_tokens - route.cached_tokens)

    async def _agreed(self, route: Route, request: RouteRequest) -> Route:
        """The load as the coordinator wants it, who knows of those that others are about to begin."""
        node = await self._place_load(request) if self._place_load is not None else None
        if node is None or node == route.node:
            return route
        there = choose_route(self._cluster.now, replace(request, only=frozenset((node,))))
        return there if isinstance(there, Route) else route

    def _fail(self, trail: Trail, node: NodeId, error: NodeError, *, fruitful: bool = False) -> None:
        """Note the failure of a node. Raises what the client is to be told, where nobody could do better."""
        log.info("request failed node=%s error=%s reason=%s", node, type(error).__name__, error)
        if not trail.take(node, error, time.monotonic(), fruitful=fruitful):
            raise self._in_words(error)
        if self._given_up:
            raise self._in_words(trail.error() or error)

    def _in_words(self, error: NodeError) -> NodeError:
        """What a client can do something with: of errors between nodes what it is about, with the machine's name."""
        if not isinstance(error, PeerError):
            return error
        text = str(error)
        for report in self._cluster.now.nodes.values():
            text = text.replace(report.node, report.name)
        return Unserved(text)

    def _serves(self, node: NodeId) -> Serves:
        return self._local if node == self._cluster.now.me else self._remote(node)

    def _span(self, node: NodeId, model: Model, job: Job | EmbedJob | None, trail: Trail, number: int) -> Span:
        """The span of asking one node; of what has no job, one that nobody keeps."""
        view = self._cluster.now
        if job is None:
            return NO_TRACER.span("", "internal", parent="", attributes={})
        known = view.nodes.get(node)
        return self._telemetry.tracer.span(
            f"{operation_of(job)} {model.name}",
            "internal" if node == view.me else "client",
            parent=job.trace,
            attributes={
                **request_attributes(str(model.name), job),
                "ayni.role": "attempt",
                "ayni.attempt": number,
                "ayni.resumed": number > 1,
                "ayni.node.id": node,
                "ayni.node.name": known.name if known else node,
                "ayni.route": trail.told,
            },
        )

    def _purse(self) -> Spend | None:
        """What takes tokens out of those that the asker may use a minute; None: nobody counts them."""
        grant, limits = ASKER.get(), self._limits
        if grant is None or limits is None:
            return None
        return lambda tokens: limits.spend(grant.token_id, tokens, time.monotonic())


def _traced(job: AnyJob, span: Span) -> AnyJob:
    """The job as the asked node is to see it: what it does there is a part of this span."""
    return msgspec.structs.replace(job, trace=span.traceparent)


def _refused(refusal: Refusal, model: Model) -> NodeError:
    if refusal.reason == "no_room":
        return DoesNotFit(refusal.needed_bytes, refusal.free_bytes, str(model.name))
    return Unserved(explain_refusal(refusal))
