"""What a node tells the others about itself: plain values, msgpack on the wire, one `NodeReport` at a time.

A node writes its own report and nobody else's. Durations are relative to the moment of writing (`idle_s`,
`expires_in_s`), because the clocks of two machines differ; the reader adds the time at which it heard the report.
Peers are members, but a mistake of theirs must cost us neither memory nor answers: every collection and number here
has a bound, and `decode_report` refuses what is beyond it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, NewType, TypeAlias

import msgspec
from msgspec import Meta, Struct

from node.footprint import Footprint

if TYPE_CHECKING:
    from node.identity import NodeId
else:
    NodeId = str  # msgspec reads the annotations; the identity package brings cryptography, which nothing here needs

# "sha256:<hex>" of what a runner holds (`registry.Model.weights_digest`): models that differ only in defaults share it.
WeightsDigest = NewType("WeightsDigest", str)
ManifestDigest = NewType("ManifestDigest", str)  # "sha256:<hex>"
PrefixHash = NewType("PrefixHash", int)  # see node.fingerprint
NodeState: TypeAlias = Literal["up", "draining", "lost"]
Text: TypeAlias = Annotated[str, Meta(max_length=512)]
# Far above what there is, and still exact as a float: arithmetic with what others report never overflows.
MAX_COUNT = 1 << 53
Count: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Amount: TypeAlias = Annotated[float, Meta(ge=0, le=1e18)]

# A hundred times what one machine loads or stores; a full report stays below 2 MiB.
MAX_RESIDENT = 256
MAX_HELD_MODELS = 4096
MAX_DEVICES = 64
# Of one model: what 32 sequences of a long conversation each leave behind (node.fingerprint keeps 64 of one).
MAX_PREFIXES = 2048
MAX_TOKEN_USES = 1024


class DeviceReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A GPU: its memory for us, now. `shares_ram`: integrated, its memory is the RAM."""

    name: Text
    total_bytes: Count
    free_bytes: Count
    shares_ram: bool = False


class RamReport(Struct, frozen=True, kw_only=True):
    """The RAM that this node may use, now."""

    total_bytes: Count = 0
    free_bytes: Count = 0


class ResidentModel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model in this node's memory.

    Attributes:
        digest: what is in memory. `manifest`, `name`: of the model that it was loaded for.
        context_tokens: per sequence; `parallel` sequences at the same time.
        default_context: it was loaded without a context being asked for.
        embedding: loaded to embed texts; can't generate.
        size_bytes: on all devices; `gpu_bytes` of it on GPUs.
        active, queued: requests being worked on, and waiting on that node for one of those to end.
        backlog_tokens: prompt tokens that those requests brought and that are not evaluated yet.
        prefixes: fingerprints of prompts whose cache is there, as the engine says.
        prefill_tokens_s: measured, or what other models there let expect. 0: nothing ran yet.
        decode_tokens_s: measured, for one sequence. 0: nothing ran yet.
        mean_job_s: how long a request takes from its slot to its end; 0: none has ended yet.
        idle_s: since its last use; 0 while in use. `expires_in_s`: until it is unloaded, if nobody asks; inf: never.
        pinned: it is to stay whatever else asks for its room.
    """

    digest: WeightsDigest
    manifest: ManifestDigest
    name: Text
    context_tokens: Count
    parallel: Annotated[int, Meta(ge=1)] = 1
    default_context: bool = False
    embedding: bool = False
    size_bytes: Count = 0
    gpu_bytes: Count = 0
    active: Count = 0
    queued: Count = 0
    backlog_tokens: Count = 0
    prefixes: Annotated[frozenset[PrefixHash], Meta(max_length=MAX_PREFIXES)] = frozenset()
    prefill_tokens_s: Amount = 0.0
    decode_tokens_s: Amount = 0.0
    mean_job_s: Amount = 0.0
    idle_s: Amount = 0.0
    expires_in_s: Annotated[float, Meta(ge=0)] = math.inf
    pinned: bool = False


class HeldModel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model whose manifest is on this node's disk, and how much of its layers: `present_bytes` of `size_bytes`.

    `footprint` None: its weights are not there yet, or it has none that could be loaded.
    """

    digest: WeightsDigest
    manifest: ManifestDigest
    name: Text
    size_bytes: Count
    present_bytes: Count
    footprint: Footprint | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it can be loaded there without fetching anything."""
        return self.present_bytes >= self.size_bytes


class TokenUse(Struct, frozen=True, array_like=True):
    """What a signed token (by its jti) has used on this node since the daemon started, and runs now."""

    requests: Count = 0
    tokens: Count = 0
    active: Count = 0


class NodeReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node, as it sees itself.

    Attributes:
        sequence: counts this daemon's reports; of two with the same `started_at` the higher one is newer.
        address: host:port of its LAN port.
        started_at: Unix time at which the daemon started, by the node's own clock; always later than the start before.
        ready_at: Unix time at which the machine was last booted (0: unknown): the steadier machine is the better head.
        devices: GPUs; none: it computes on its CPU.
        resident: in memory. `loading`: on their way there, with the bytes they will take.
        held: on disk. `held_unchanged`: left out, it is as it was in the report before; see `without_held`.
        waiting: requests that this node keeps in its own queue until some node has a place for them, by model.
        link_bytes_s: speed at which it receives blobs from the others; 0: it does not.
        load_bytes_s: from its disk to its devices. 0: not measured yet.
        prefill_bytes_s: prompt tokens a second times bytes of weights, over all that ran: what to expect of a model
            that has not run there. `decode_bytes_s`: the same of generated tokens.
        generation: of the Ray cluster that it takes part in or did last; 0: none. `follows`: that one's head, while it
            is heard.
        head: it runs the control store itself.
        head_preference: the operator's word: higher is preferred, negative: never.
        head_failed: it could not be head when it should have been, lately.
        on_battery: a laptop away from its charger.
        token_use: by jti, of tokens used lately.
    """

    node: NodeId
    name: Text
    address: Text = ""
    version: Text = ""
    ray_version: Text = ""
    python_version: Text = ""
    platform: Text = "linux"
    started_at: Amount = 0.0
    ready_at: Amount = 0.0
    sequence: Count = 0
    state: NodeState = "up"
    devices: Annotated[tuple[DeviceReport, ...], Meta(max_length=MAX_DEVICES)] = ()
    ram: RamReport = RamReport()
    resident: Annotated[tuple[ResidentModel, ...], Meta(max_length=MAX_RESIDENT)] = ()
    loading: Annotated[dict[WeightsDigest, Count], Meta(max_length=MAX_RESIDENT)] = {}
    held: Annotated[tuple[HeldModel, ...], Meta(max_length=MAX_HELD_MODELS)] = ()
    held_unchanged: bool = False
    waiting: Annotated[dict[WeightsDigest, Count], Meta(max_length=MAX_RESIDENT)] = {}
    link_bytes_s: Amount = 0.0
    load_bytes_s: Amount = 0.0
    prefill_bytes_s: Amount = 0.0
    decode_bytes_s: Amount = 0.0
    generation: Count = 0
    follows: NodeId | None = None
    head: bool = False
    head_preference: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    head_failed: bool = False
    on_battery: bool = False
    token_use: Annotated[dict[str, TokenUse], Meta(max_length=MAX_TOKEN_USES)] = {}

    def is_newer_than(self, other: NodeReport) -> bool:
        """Whether this one was written after `other`, a report of the same node that may have overtaken it."""
        return (self.started_at, self.sequence) > (other.started_at, other.sequence)

    def without_held(self) -> NodeReport:
        """The report for somebody who knows what is held: a heartbeat should not carry a list of hundreds."""
        return msgspec.structs.replace(self, held=(), held_unchanged=True)

    def completed(self, known: NodeReport) -> NodeReport:
        """A report without the list of what is held, completed from the one before it."""
        return msgspec.structs.replace(self, held=known.held, held_unchanged=False) if self.held_unchanged else self


encode_report = msgspec.msgpack.Encoder().encode
# Raises node.decoding.DECODE_ERRORS (ValidationError for values beyond the bounds above).
decode_report = msgspec.msgpack.Decoder(NodeReport).decode
