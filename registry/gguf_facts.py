"""What is known of a GGUF file without loading it: `GgufFacts`, read in a child process, bounded and cacheable.

A child, because the bytes are hostile until proven otherwise (a file cut short under a memory map kills its
reader), and because numpy and the `gguf` library would stay in the daemon's memory. `registry.gguf_probe` is
that child.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from registry.errors import InvalidGguf

MAGIC: Final = b"GGUF"
# The probe of a model with 150,000 tokens and 300,000 merges takes under 1 s; a cold network disk some more.
PROBE_TIMEOUT_S: Final = 60.0
BATCH: Final = 32
PACKAGE_ROOT: Final = Path(__file__).parent.parent

Scalar: TypeAlias = bool | int | float | str


class TensorFact(msgspec.Struct, frozen=True, array_like=True):
    """One tensor: `shape` in ggml's order (the contiguous dimension first), `type` as "F32" or "Q4_K"."""

    name: str
    shape: tuple[int, ...]
    type: str
    size_bytes: int


class ArrayFact(msgspec.Struct, frozen=True, array_like=True):
    """An array of the metadata: its element type ("STRING", "INT32"), its length, and short numeric ones' values."""

    type: str
    length: int
    values: tuple[float | int, ...] = ()


class RecurrentFact(msgspec.Struct, frozen=True, kw_only=True):
    """The state-space part of a recurrent or hybrid model."""

    conv_kernel: int
    inner_size: int
    state_size: int
    time_step_rank: int
    group_count: int


class GgufFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A GGUF file's metadata and tensor list.

    Attributes:
        kind: "model", "adapter", "projector" (mmproj), or what else general.type says.
        file_type: the quantisation, as Ollama shows it ("Q4_K_M").
        head_counts, kv_head_counts, feed_forward_lengths: one per block; 0 where a block has none.
        key_length, value_length: of one head.
        sliding_window: in tokens; None where all attention is global.
        pooling: "none", "mean", "cls", "last", "rank"; None where the file says nothing.
        causal: False for encoders, which can embed but not generate.
        fill_in_middle: the vocabulary has prefix, suffix and middle tokens.
        metadata: every key that is no array. `arrays`: the others.
    """

    architecture: str
    kind: str
    name: str
    parameter_count: int
    file_type: str
    file_size_bytes: int
    context_length: int
    embedding_length: int
    block_count: int
    head_counts: tuple[int, ...]
    kv_head_counts: tuple[int, ...]
    key_length: int
    value_length: int
    feed_forward_lengths: tuple[int, ...]
    vocab_size: int
    expert_count: int
    expert_used_count: int
    sliding_window: int | None
    recurrent: RecurrentFact | None
    rope_dimension_count: int
    rope_freq_base: float
    rope_scaling: str
    pooling: str | None
    causal: bool
    chat_template: str | None
    tokenizer_model: str
    bos_token_id: int | None
    eos_token_id: int | None
    eot_token_id: int | None
    fill_in_middle: bool
    metadata: dict[str, Scalar]
    arrays: dict[str, ArrayFact]
    tensors: tuple[TensorFact, ...]

    @property
    def is_embedding(self) -> bool:
        """Whether the model embeds instead of generating."""
        return not self.causal or self.pooling is not None

    def of_architecture(self, key: str) -> Scalar | None:
        """A value under the architecture's own prefix: `attention.kv_lora_rank` for llama's `llama.atten...`."""
        return self.metadata.get(f"{self.architecture}.{key}")


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    """The probe's answer for a file that can't be used."""

    reason: str


class Report(msgspec.Struct, frozen=True, tag="report"):
    """The probe's answer for a sound file."""

    facts: GgufFacts


encode_answers = msgspec.msgpack.Encoder().encode
_decode_answers = msgspec.msgpack.Decoder(list[Refusal | Report]).decode
encode_facts = msgspec.msgpack.Encoder().encode
decode_facts = msgspec.msgpack.Decoder(GgufFacts).decode


def is_gguf(path: Path) -> bool:
    """Whether the file starts as a GGUF does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf_facts(path: Path) -> GgufFacts:
    """Read a GGUF file's facts; takes about 0.3 s, so keep the result.

    Raises: InvalidGguf: with what is wrong, or if reading it took too long or killed its reader. OSError: the
        file can't be opened.
    """
    if not is_gguf(path):
        raise InvalidGguf(path, "not a GGUF file: it does not start with the bytes GGUF")
    (answer,) = _probe([path])
    if isinstance(answer, Refusal):
        raise InvalidGguf(path, answer.reason)
    return answer.facts


def read_sound_gguf_facts(paths: Sequence[Path]) -> dict[Path, GgufFacts]:
    """Read many files at a fraction of the time for each; those that can't be read are left out."""
    found: dict[Path, GgufFacts] = {}
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        try:
            answers = _probe(batch)
        except InvalidGguf:
            continue  # one of them killed or stopped the reader: `read_gguf_facts` will tell which
        found |= {path: answer.facts for path, answer in zip(batch, answers, strict=True) if isinstance(answer, Report)}
    return found


def _probe(paths: Sequence[Path]) -> list[Refusal | Report]:
    """One answer for each file. Raises: InvalidGguf, about the first: no answers."""
    command = [sys.executable, "-P", "-m", "registry.gguf_probe", *(str(path.absolute()) for path in paths)]
    search = (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))
    try:
        child = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InvalidGguf(paths[0], f"its metadata could not be read within {PROBE_TIMEOUT_S:.0f} s") from None
    if child.returncode != 0:
        trouble = child.stderr.decode(errors="replace").strip().splitlines()
        last = trouble[-1][:200] if trouble else "no message"
        raise InvalidGguf(paths[0], f"reading its metadata failed with status {child.returncode} ({last})")
    answers: list[Refusal | Report] = _decode_answers(child.stdout)
    return answers
