"""What callers of the supervisor say about loading a model, and what they are told about a loaded one."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from msgspec import Struct

from node.report import PrefixHash
from node.runner.protocol import Loaded
from registry import Digest, ModelName  # not only for type checking: these values travel between nodes

# What is in memory (`Model.weights_digest`), and whether it is there to embed texts.
WeightsKey: TypeAlias = tuple[Digest, bool]


class LoadOptions(Struct, frozen=True, kw_only=True):
    """How a model is to be loaded, a request's options over those of its Modelfile; None: decided by the node.

    `num_gpu` counts layers as llama.cpp does (the output layer is one more); negative: as many as fit.
    """

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    num_thread: int | None = None
    parallel: int | None = None


class LoadedModel(Struct, frozen=True, kw_only=True):
    """A model in memory, at one moment.

    Attributes:
        name, digest: of the model that it was loaded for. `weights`: of what is in memory (`Model.weights_digest`).
        size_bytes: what llama.cpp allocated on all devices; `vram_bytes` of it on GPUs.
        context_tokens: per sequence; `parallel` sequences run at the same time.
        default_context: no context was asked for when it was loaded.
        embedding: it was loaded to embed texts, and can't generate.
        expires_at: when it will be unloaded if nothing asks for it (aware); None: never.
        idle_s: since its last use; 0 while in use.
        active, queued: requests being worked on, and requests waiting for one of those to end.
        backlog_tokens: prompt tokens of those that are not evaluated yet.
        prefixes: fingerprints (node.fingerprint) of the prompts that its engine has in its memory.
    """

    name: ModelName
    digest: Digest
    weights: Digest
    size_bytes: int
    vram_bytes: int
    context_tokens: int
    parallel: int
    embedding: bool
    default_context: bool = False
    expires_at: datetime | None
    info: Loaded
    active: int
    queued: int
    idle_s: float = 0.0
    backlog_tokens: int = 0
    prefixes: frozenset[PrefixHash] = frozenset()
