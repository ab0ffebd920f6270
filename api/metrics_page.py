"""The page for Prometheus: the counts so far, and gauges of how things stand at this moment.

What belongs to the event loop is read in one go (`gauges`); the text is made elsewhere (`render`), from values.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from node.devices import read_ram
from node.telemetry.metrics import QUEUES

if TYPE_CHECKING:
    from api.cluster.member import ClusterNode
    from api.daemon import Daemon
    from node.devices import Machine
    from node.supervisor import LoadedModel


def node_name(daemon: Daemon) -> str:
    """What this machine is called, in its cluster if it is in one."""
    member = daemon.cluster.member if daemon.cluster else None
    return member.identity.node_name if member else daemon.settings.node_name or socket.gethostname()


async def gauges(daemon: Daemon) -> list[Metric]:
    """How things stand now."""
    member = daemon.cluster.member if daemon.cluster else None
    machine = await daemon.devices.machine(refresh=False) if daemon.devices else None
    return [
        *_about(daemon, member),
        *_devices(machine),
        *_models(daemon, daemon.node.loaded(), member),
        *(_cluster(member) if member else ()),
    ]


def render(counts: CollectorRegistry, gauges: Sequence[Metric], node: str, accept: str) -> tuple[bytes, str]:
    """The page and its media type, which follows what the scraper accepts; every sample says which node it is of."""
    page = CollectorRegistry()
    page.register(_Page(node, counts, gauges))
    ProcessCollector(registry=page)
    encode, media_type = choose_encoder(accept)
    return encode(page), media_type


class _Page(Collector):
    """Counts and gauges together, with the node's name on each sample."""

    def __init__(self, node: str, counts: CollectorRegistry, gauges: Sequence[Metric]) -> None:
        self._node, self._counts, self._gauges = node, counts, gauges

    def collect(self) -> Iterator[Metric]:
        """As the library asks for it."""
        for family in (*self._counts.collect(), *self._gauges):
            named = Metric(family.name, family.documentation, family.type, family.unit)
            named.samples = [
                sample._replace(labels={"node": self._node, **sample.labels})
                for sample in family.samples
                if not sample.name.endswith("_created")  # twice as many series, and nobody asks for them
            ]
            yield named


def _gauge(
    name: str, meaning: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"ayni_{name}", meaning, labels=labels)
    for found, value in values:
        family.add_metric(found, value)
    return family


def _about(daemon: Daemon, member: ClusterNode | None) -> Iterator[Metric]:
    cluster = member.identity.cluster_name if member else ""
    node_id = member.me if member else ""
    labels = ("version", "cluster", "node_id")
    yield _gauge("info", "This daemon", labels, [((daemon.version, cluster, node_id), 1)])


def _devices(machine: Machine | None) -> Iterator[Metric]:
    ram = read_ram()
    devices = [("ram", "", ram.total_bytes, ram.free_bytes)]
    for number, gpu in enumerate(machine.gpus if machine else ()):
        devices.append((str(number), gpu.description or gpu.name, gpu.total_bytes, gpu.free_bytes))
    labels = ("device", "description")
    yield _gauge(
        "device_total_bytes",
        "Memory that this node may use",
        labels,
        [((d, what), total) for d, what, total, _ in devices],
    )
    yield _gauge(
        "device_free_bytes",
        "Memory that is free for models",
        labels,
        [((d, what), free) for d, what, _, free in devices],
    )


def _models(daemon: Daemon, loaded: Sequence[LoadedModel], member: ClusterNode | None) -> Iterator[Metric]:
    """By name: a model can be in memory twice, to generate and to embed."""
    label = daemon.telemetry.metrics.model
    size, on_gpus, active = Counter[tuple[str]](), Counter[tuple[str]](), Counter[tuple[str]]()
    waiting = Counter[tuple[str, str]]()
    for item in loaded:
        model = label(str(item.name))
        size[model,] += item.size_bytes
        on_gpus[model,] += item.vram_bytes
        active[model,] += item.active
        waiting[model, "slot"] += item.queued
    for name, length in (member.turns.lengths() if member else {}).items():
        waiting[label(name), "turn"] += length
    by_model = ("model",)
    yield _gauge("models_resident", "Models in this machine's memory", (), [((), len(loaded))])
    yield _gauge("model_resident_bytes", "Memory of a model, on all devices", by_model, size.items())
    yield _gauge("model_gpu_bytes", "Memory of a model, on GPUs", by_model, on_gpus.items())
    yield _gauge("model_active_requests", "Requests that a model works on", by_model, active.items())
    yield _gauge("queue_length", f"Requests that wait, {QUEUES}", ("model", "queue"), waiting.items())


def _cluster(member: ClusterNode) -> Iterator[Metric]:
    report, nodes = member.report(), member.view.now.nodes
    others = list(member.membership)
    states = {"up": 0, "draining": 0, "lost": 0}
    for node in {report.node, *(other.node for other in others)}:
        states[nodes[node].state if node in nodes else "lost"] += 1
    yield _gauge(
        "nodes", "Members as this node sees them, itself included", ("state",), (((s,), n) for s, n in states.items())
    )
    up = [((other.name or other.node, other.node), float(other.state == "up")) for other in others]
    yield _gauge("node_up", "Whether this node hears another member", ("peer", "peer_id"), up)
    yield _gauge("node_draining", "Whether this node takes no new work", (), [((), report.state == "draining")])
    yield _gauge(
        "generation",
        "Of the Ray cluster that this node takes part in, or did last; 0: in none yet",
        (),
        [((), report.generation)],
    )
    yield _gauge("head", "Whether this node runs the Ray cluster's control store", (), [((), report.head)])
