"""What serving a request on a node costs, term by term: seconds until its first token.

Pure arithmetic over one node's report. Which nodes are asked at all is `coordinator.route`'s choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.memory import Fit, choose_victims
from coordinator.view import DEFAULT_JOB_S, DEFAULT_LOAD_BYTES_S, Host, View, prefill_bytes_s
from node.footprint import Footprint
from node.report import HeldModel, NodeReport, PrefixHash, ResidentModel, WeightsDigest

# A kept mutual-TLS stream between two daemons on a LAN.
HOP_S = 0.001
# Starting a runner process and making a context, before the first byte is read.
START_S = 0.5
UNLOAD_S = 0.3
# An unloaded model is asked for again with a chance that halves with each such time since its last use.
MISSED_HALF_LIFE_S = 300.0
# And computes at the same moment as another with a chance that halves with each such time.
BUSY_HALF_LIFE_S = 30.0


class Terms(NamedTuple):
    """Expected seconds to the first token, by cause; `total_s` is their sum, kept because it is compared so often."""

    total_s: float
    hop_s: float = 0.0
    queue_s: float = 0.0
    fetch_s: float = 0.0
    load_s: float = 0.0
    evict_s: float = 0.0
    prefill_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What routing has to know of a job.

    Attributes:
        model: what is in memory when it runs. `embedding`: to embed texts, which takes a context of its own kind.
        prompt_tokens: estimated. `prefix_hashes`, `prefix_tokens`: its fingerprint (node.fingerprint), in order.
        context_tokens, parallel: asked for; None: whatever the node thinks right.
        footprint: None: as one of the model's holders has told; if none has, only nodes that have it in memory can.
        may_wait: models in use may have to go, once what uses them has ended.
        spares_s: models used within this time are not unloaded for it.
        even_draining: nodes that take nothing new may be asked too, for what they have in memory.
        excluded: nodes not to be asked (they have just failed, or refused). `only`: no others; empty: all.
    """

    model: WeightsDigest
    prompt_tokens: int = 0
    prefix_hashes: tuple[PrefixHash, ...] = ()
    prefix_tokens: tuple[int, ...] = ()
    context_tokens: int | None = None
    parallel: int | None = None
    embedding: bool = False
    footprint: Footprint | None = None
    may_wait: bool = False
    spares_s: float = 0.0
    even_draining: bool = False
    excluded: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()


def cached_tokens(request: RouteRequest, resident: ResidentModel) -> int:
    """How much of the request's prompt is in the cache there, as the engine has reported it."""
    held = resident.prefixes
    hashes = request.prefix_hashes
    if held.isdisjoint(hashes):  # at C speed; usually so
        return 0
    for at in range(len(hashes) - 1, -1, -1):
        if hashes[at] in held:
            return request.prefix_tokens[at]
    return 0


def can_serve(request: RouteRequest, resident: ResidentModel) -> bool:
    """Whether the loaded model does for the request; a smaller context is served on a larger one.

    The same rule as the supervisor's, so that what is routed there does not make it load the model anew.
    """
    if request.parallel is not None and request.parallel > resident.parallel:
        return False
    limit = request.footprint.train_context_tokens if request.footprint else 0
    if request.context_tokens is None:
        return resident.default_context or resident.context_tokens >= min(4096, limit or 4096)
    return resident.context_tokens >= (min(request.context_tokens, limit) if limit else request.context_tokens)


def resident_terms(view: View, host: Host, request: RouteRequest, cached: int) -> Terms:
    """The cost where the model is in memory: what waits there, then what of the prompt is not cached."""
    # At least the last token is always evaluated, for its logits.
    prefill_s = max(1, request.prompt_tokens - cached) / host.prefill_tokens_s
    hop_s = 0.0 if host.report.node == view.me else HOP_S
    return Terms(hop_s + host.queue_s + prefill_s, hop_s, host.queue_s, 0.0, 0.0, 0.0, prefill_s)


def loading_terms(
    view: View,
    report: NodeReport,
    held: HeldModel | None,
    footprint: Footprint,
    request: RouteRequest,
    *,
    waits: bool = False,
) -> tuple[Terms, Fit, tuple[ResidentModel, ...]]:
    """The cost where the model has to be loaded first, how it would fit, and what has to be unloaded for it.

    Meaningless where it does not fit, or what is missing can't be fetched. What is in use goes if it `waits` for that.
    Unloading costs what loading the victims again would, as likely as they are missed. An instance that is there
    already and does not do for the request is replaced. A load of this model that already runs there is counted as
    half done. Models that were used there lately will be again, and share the device: which spreads models over
    machines instead of heaping them on the fastest.
    """
    need = footprint.need(footprint.context(request.context_tokens), request.parallel or 1)
    going: tuple[ResidentModel, ...] = ()
    for resident in report.resident:
        if resident.digest == request.model and resident.embedding == request.embedding:
            going = (resident,)
    victims: tuple[ResidentModel, ...] = ()
    loading = request.model in report.loading
    if loading:
        fit = Fit("gpu" if report.devices else "ram", need.total_bytes, need.total_bytes, 1.0)
    else:
        fit, victims = choose_victims(report, need, going=going, used_within_s=request.spares_s, in_use=waits)
        victims = going + victims
    load_speed = report.load_bytes_s or DEFAULT_LOAD_BYTES_S
    missing = max(0, footprint.file_bytes - (held.present_bytes if held else 0))
    fetch_s = missing / report.link_bytes_s if missing and report.link_bytes_s else 0.0
    load_s = START_S + footprint.file_bytes / load_speed
    if loading:
        fetch_s, load_s = fetch_s / 2, load_s / 2
    queue_s = max((_use_s(victim) for victim in victims), default=0.0)
    evict_s = 0.0
    for victim in victims:
        missed = 0.0 if victim in going else math.pow(0.5, victim.idle_s / MISSED_HALF_LIFE_S)
        evict_s += UNLOAD_S + missed * (START_S + victim.size_bytes / load_speed)
    sharing = 1.0
    for resident in report.resident:
        if resident not in victims:
            sharing += math.pow(0.5, resident.idle_s / BUSY_HALF_LIFE_S)
    work = max(1, request.prompt_tokens) * footprint.layer_bytes * fit.slowdown
    prefill_s = work * sharing / prefill_bytes_s(report)
    hop_s = 0.0 if report.node == view.me else HOP_S
    total = hop_s + queue_s + fetch_s + load_s + evict_s + prefill_s
    return Terms(total, hop_s, queue_s, fetch_s, load_s, evict_s, prefill_s), fit, victims


def _use_s(resident: ResidentModel) -> float:
    """How long a model is likely to be in use still."""
    rounds = math.ceil((resident.active + resident.queued) / resident.parallel)
    return rounds * (resident.mean_job_s or DEFAULT_JOB_S)
