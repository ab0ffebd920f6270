"""Small clusters in a line each: nodes, loaded models, requests for them."""

from __future__ import annotations

from typing import Any

from coordinator.cost import RouteRequest
from coordinator.view import (
    DeviceReport,
    HeldModel,
    NodeReport,
    PrefixHash,
    RamReport,
    ResidentModel,
    View,
    WeightsDigest,
)
from node.footprint import Footprint
from node.identity import NodeId
from node.report import ManifestDigest

GIB = 1 << 30
ME = NodeId("a" * 16)
MODEL = WeightsDigest("sha256:" + "1" * 64)
OTHER = WeightsDigest("sha256:" + "2" * 64)
MANIFEST = ManifestDigest("sha256:" + "f" * 64)
# 1 GiB of weights; 100 KiB for a token of context.
FOOTPRINT = Footprint(file_bytes=GIB, layer_bytes=GIB, kv_bytes=100 << 10, train_context_tokens=32_768)


def node_id(letter: str) -> NodeId:
    return NodeId(letter * 16)


def loaded(model: WeightsDigest = MODEL, **fields: Any) -> ResidentModel:
    """A loaded model that reads 1,000 tokens a second and takes a second for a request."""
    given: dict[str, Any] = {
        "name": "demo:latest" if model == MODEL else "other:latest",
        "context_tokens": 8192,
        "parallel": 4,
        "size_bytes": 2 * GIB,
        "prefill_tokens_s": 1000.0,
        "mean_job_s": 1.0,
    }
    return ResidentModel(digest=model, manifest=MANIFEST, **given | fields)


def held(model: WeightsDigest = MODEL, *, present: int = GIB, footprint: Footprint | None = FOOTPRINT) -> HeldModel:
    return HeldModel(
        digest=model,
        manifest=MANIFEST,
        name="demo:latest",
        size_bytes=GIB,
        present_bytes=present,
        footprint=footprint,
    )


def machine(
    letter: str, *resident: ResidentModel, free_gib: float = 16, gpu_gib: float = 0, **fields: Any
) -> NodeReport:
    """A node with the model on its disk; a CPU node unless it has `gpu_gib` free on a GPU."""
    gpu = int(gpu_gib * GIB)
    given: dict[str, Any] = {
        "held": (held(),),
        "devices": (DeviceReport(name="CUDA0", total_bytes=gpu, free_bytes=gpu),) if gpu else (),
        "ram": RamReport(total_bytes=64 * GIB, free_bytes=int(free_gib * GIB)),
        "link_bytes_s": 100e6,
        "load_bytes_s": 1e9,
        "prefill_bytes_s": 1e12,
        "sequence": 1,
    }
    return NodeReport(node=node_id(letter), name=letter, resident=resident, **given | fields)


def view_of(*reports: NodeReport, me: NodeId = ME) -> View:
    return View({report.node: report for report in reports}, {report.node: 0.0 for report in reports}, me)


def request(tokens: int = 100, marks: dict[int, int] | None = None, **fields: Any) -> RouteRequest:
    """A request for the model; `marks`: fingerprint to the tokens before it."""
    hashes = {"prefix_hashes": tuple(map(PrefixHash, marks)), "prefix_tokens": tuple(marks.values())} if marks else {}
    return RouteRequest(**{"model": MODEL, "prompt_tokens": tokens} | hashes | fields)
