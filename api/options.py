"""Ollama's `options`: names, types and defaults, as requests and Modelfiles write them.

Numbers follow Go's JSON: a whole-number option takes any number and drops its fraction. An unknown name is
ignored, as Ollama does; a wrong type is refused with the option's name.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from api.errors import BadRequest
from node.jobs import Sampling
from node.supervisor import LoadOptions

log = logging.getLogger(__name__)

# Larger ones mean nothing to the engine, whose counters have 32 bits.
LARGEST_INT = 2**31 - 1
MAX_STOPS = 64
# Known to older or to Ollama's own engines, and without effect here.
IGNORED = frozenset(
    {
        "draft_num_predict",
        "f16_kv",
        "logits_all",
        "low_vram",
        "numa",
        "num_gqa",
        "penalize_newline",
        "rope_frequency_base",
        "rope_frequency_scale",
        "tfs_z",
        "vocab_only",
    }
)


class Options(Struct, frozen=True, kw_only=True):
    """All options of a request, merged and typed; None leaves the choice to the node.

    `seed` -1 is a fresh random one; `num_predict` of 0 or less is no limit.
    """

    num_keep: int = 4
    seed: int = -1
    num_predict: int = -1
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    temperature: float = 0.8
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    stop: tuple[str, ...] = ()
    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    num_thread: int | None = None

    @property
    def max_tokens(self) -> int | None:
        """The budget of generated tokens."""
        return self.num_predict if self.num_predict > 0 else None

    def sampling(self, logit_bias: Mapping[int, float] | None = None) -> Sampling:
        """How tokens are chosen."""
        return Sampling(
            temperature=self.temperature,
            top_k=max(0, self.top_k),
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            repeat_last_n=max(-1, self.repeat_last_n),
            repeat_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            mirostat=2 if self.mirostat == 2 else 1 if self.mirostat == 1 else 0,
            mirostat_tau=self.mirostat_tau,
            mirostat_eta=self.mirostat_eta,
            seed=None if self.seed < 0 else self.seed,
            logit_bias=dict(logit_bias or {}),
        )

    def load_options(self) -> LoadOptions:
        """How the model is to be loaded."""
        return LoadOptions(
            num_ctx=self.num_ctx,
            num_batch=self.num_batch,
            num_gpu=self.num_gpu,
            main_gpu=self.main_gpu,
            use_mmap=self.use_mmap,
            use_mlock=self.use_mlock,
            num_thread=self.num_thread,
        )


def merge_options(*layers: Mapping[str, Any]) -> Options:
    """Defaults, then each layer over the ones before it. Raises BadRequest naming the option of a wrong type."""
    values: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if value is None:
                continue
            if parse := PARSERS.get(name):
                values[name] = parse(name, value)
            elif name not in IGNORED:
                log.warning("unknown option ignored name=%.64s", name)
    return Options(**values)


def _wrong(name: str, expected: str) -> BadRequest:
    return BadRequest(f'option "{name}" must be {expected}', "options")


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(name, "of type integer")
    if not -LARGEST_INT <= value <= LARGEST_INT:
        raise _wrong(name, f"between {-LARGEST_INT} and {LARGEST_INT}")
    return int(value)


def _seed(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(name, "of type integer")
    # llama.cpp's seeds have 32 bits; clients like to send wider ones.
    return int(value) & 0xFFFFFFFF if value >= 0 else -1


def _size(name: str, value: Any) -> int | None:
    """A count that is at least 1; zero or less leaves the choice to the node."""
    return count if (count := _integer(name, value)) > 0 else None


def _layers(name: str, value: Any) -> int | None:
    """Layers on the GPU: zero is a wish, a negative number none."""
    return count if (count := _integer(name, value)) >= 0 else None


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "of type float32")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= 1e30:
        raise _wrong(name, "of type float32")
    return number


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "of type boolean")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(name, "of type array")
    if not all(isinstance(item, str) for item in value):
        raise _wrong(name, "of an array of strings")
    if len(value) > MAX_STOPS:
        raise _wrong(name, f"an array of at most {MAX_STOPS} strings")
    return tuple(item for item in value if item)


PARSERS: Mapping[str, Callable[[str, Any], Any]] = {
    "num_keep": _integer,
    "seed": _seed,
    "num_predict": _integer,
    "top_k": _integer,
    "top_p": _number,
    "min_p": _number,
    "typical_p": _number,
    "repeat_last_n": _integer,
    "temperature": _number,
    "repeat_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "mirostat": _integer,
    "mirostat_tau": _number,
    "mirostat_eta": _number,
    "stop": _texts,
    "num_ctx": _size,
    "num_batch": _size,
    "num_gpu": _layers,
    "main_gpu": _layers,
    "use_mmap": _switch,
    "use_mlock": _switch,
    "num_thread": _size,
}
