"""The words between the daemon and a runner process: msgpack values in length-prefixed frames on one socket.

The daemon starts `python -m node.runner --fd N`, N being one end of a socket pair, sends `Load` first and then
any number of requests, many jobs at once. The runner answers with `LoadProgress` ..., then `Loaded` or
`LoadFailed`, then `Events` (everything one engine step produced, for all jobs, in one frame) and `Standing` (what its
memory holds, whenever that changes). It exits when the socket closes, so a dead daemon leaves no runner behind.

A frame is a 4-byte little-endian length and that many bytes of msgpack.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from node.jobs import EmbedJob, Event, Job
from node.report import PrefixHash

# A job carries at most a request body (bounded by the API) and its images; anything longer is a bug.
MAX_FRAME_BYTES = 256 << 20
FRAME_HEADER_BYTES = 4

KvType: TypeAlias = Literal["f16", "q8_0", "q4_0"]
FlashAttention: TypeAlias = Literal["auto", "on", "off"]
Pooling: TypeAlias = Literal["model", "none", "mean", "cls", "last", "rank"]


class Adapter(Struct, frozen=True, kw_only=True):
    """A LoRA adapter in GGUF form."""

    path: str
    scale: float = 1.0


class LoadSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a runner needs to load one model and to render its prompts.

    Attributes:
        context_tokens: per sequence; the KV cache holds `parallel` times as many.
        template: TEMPLATE of the Modelfile (Go or Jinja text); None: the chat template in the GGUF.
        gpu_layers: layers not kept in RAM, counted as llama.cpp does (the output layer is one more).
        tensor_split: share of those layers on each GPU, in ggml's device order; empty: llama.cpp's own split.
        threads: None: as many as there are physical cores available to this process.
        embedding: a context for embeddings only (pooled outputs, no generation).
    """

    model_path: str
    context_tokens: int
    parallel: int = 1
    batch_tokens: int = 512
    kv_type: KvType = "f16"
    flash_attention: FlashAttention = "auto"
    gpu_layers: int = 0
    tensor_split: tuple[float, ...] = ()
    main_gpu: int = 0
    threads: int | None = None
    mmap: bool = True
    mlock: bool = False
    adapters: tuple[Adapter, ...] = ()
    template: str | None = None
    embedding: bool = False
    pooling: Pooling = "model"


class Load(Struct, frozen=True, tag="load"):
    """First frame: load this model."""

    spec: LoadSpec


class Submit(Struct, frozen=True, tag="submit"):
    """Run a job; `Delta` ... then `Done` or `Failed` follow."""

    job: Job


class Embed(Struct, frozen=True, tag="embed"):
    """Embed texts; `Embedded` or `Failed` follows."""

    job: EmbedJob


class Render(Struct, frozen=True, tag="render"):
    """Only render the job's prompt; `Rendered` or `Failed` follows."""

    job: Job


class Cancel(Struct, frozen=True, tag="cancel"):
    """Forget this job; no further event of it is promised, and its slot is free at the next step."""

    job: str


Request: TypeAlias = Load | Submit | Embed | Render | Cancel


class LoadProgress(Struct, frozen=True, tag="progress"):
    """How much of the weights has been read, 0 to 1."""

    fraction: float


class DeviceBytes(Struct, frozen=True):
    """What llama.cpp allocated on one device (ggml's name of it; "CPU" for RAM), as it reports it."""

    device: str
    model_bytes: int
    kv_bytes: int
    compute_bytes: int


class Loaded(Struct, frozen=True, kw_only=True, tag="loaded"):
    """The model is ready. Capabilities follow from the template and the vocabulary."""

    load_ns: int
    context_tokens: int
    train_context_tokens: int
    embedding_length: int
    allocated: tuple[DeviceBytes, ...]
    supports_tools: bool
    supports_thinking: bool
    supports_infill: bool


class LoadFailed(Struct, frozen=True, tag="load_failed"):
    """The model can't be loaded; the runner exits after this. `message` is meant for people."""

    message: str


class Events(Struct, frozen=True, tag="events"):
    """What happened to the jobs since the last frame, in order."""

    events: tuple[Event, ...]


class Standing(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="standing"):
    """How the engine stands; sent before the events of the step that changed it.

    Attributes:
        backlog_tokens: of prompts that have arrived and are not evaluated yet.
        prefixes: fingerprints of the prompts whose tokens are in its memory; None: as they were.
    """

    backlog_tokens: int = 0
    prefixes: frozenset[PrefixHash] | None = None


Reply: TypeAlias = LoadProgress | Loaded | LoadFailed | Events | Standing

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def frame(message: Request | Reply) -> bytes:
    """Encode a message with its length in front."""
    body = encode(message)
    return len(body).to_bytes(FRAME_HEADER_BYTES, "little") + body
