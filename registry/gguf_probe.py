"""Child process: read GGUF files' metadata and print their `GgufFacts`.

`python -m registry.gguf_probe PATH...` writes a msgpack list to stdout, a `Report` or `Refusal` for each. The
reading is the `gguf` library's, with bounds: it trusts lengths and counts, and makes two arrays per token (12 s
and 650 MiB for a vocabulary of 128,000), so `BoundedReader` checks every extent against the file and steps over
large arrays.
"""

from __future__ import annotations

import re
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGUFReader, GGUFValueType, ReaderField
from gguf.constants import GGML_QUANT_SIZES, LlamaFileType, PoolingType

from registry.gguf_facts import (
    ArrayFact,
    GgufFacts,
    RecurrentFact,
    Refusal,
    Report,
    Scalar,
    TensorFact,
    encode_answers,
)

# Real files have under 100 keys and at most a few thousand tensors of four dimensions.
MAX_KEYS: Final = 1 << 16
MAX_TENSORS: Final = 1 << 16
MAX_DIMENSIONS: Final = 4
MAX_KEY_BYTES: Final = (1 << 16) - 1  # the format's own limit
MAX_STRING_BYTES: Final = 16 << 20
MAX_TEXT_BYTES: Final = 64 << 20  # of all strings together that are not in arrays
MAX_ARRAY_LENGTH: Final = 1 << 24  # the largest vocabularies have 2^18 tokens, and twice as many merges
KEPT_ARRAY_LENGTH: Final = 4096  # per-block numbers are kept, scores of a vocabulary are not
MAX_BLOCKS: Final = 1 << 14
MAX_DATA_BYTES: Final = 1 << 30  # of this process, beyond the mapped file

# Encoders whose files say neither `attention.causal` nor `pooling_type` in all versions.
ENCODERS: Final = frozenset(
    {"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "jina-bert-v2", "jina-bert-v3"}
)
_ARCHITECTURE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Unsound(Exception):
    """The file breaks the format; the text says where."""


class BoundedReader(GGUFReader):  # type: ignore[misc]
    """The library's reader, which refuses to look past the end of the file or to count beyond reason."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray[Any, Any]:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise Unsound(f"truncated: bytes up to {end} are needed, the file has {len(self.data)}")
        array: np.ndarray[Any, Any] = super()._get(int(offset), dtype, count, override_order)
        return array

    def _get_str(self, offset: int) -> tuple[Any, Any]:
        length = int(self._get(offset, np.uint64)[0])
        if length > MAX_STRING_BYTES:
            raise Unsound(f"a string of {length} bytes at offset {offset}")
        parts: tuple[Any, Any] = super()._get_str(offset)
        return parts

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
        self._check_value_type(raw_type)
        if raw_type != GGUFValueType.ARRAY:
            parts: tuple[int, list[Any], list[int], list[Any]] = super()._get_field_parts(orig_offs, raw_type)
            return parts
        item_type = self._check_value_type(int(self._get(orig_offs, np.uint32)[0]))
        length = int(self._get(orig_offs + 4, np.uint64)[0])
        if length > MAX_ARRAY_LENGTH:
            raise Unsound(f"an array of {length} elements at offset {orig_offs}")
        start = orig_offs + 12
        if item_type == GGUFValueType.ARRAY:
            raise Unsound(f"nested arrays at offset {orig_offs}")
        header = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)]
        if item_type == GGUFValueType.STRING:
            return self._end_of_strings(start, length) - orig_offs, header, [], [GGUFValueType.ARRAY, item_type]
        values = self._get(start, self.gguf_scalar_to_np[item_type], length)
        return 12 + int(values.nbytes), [*header, values], [2], [GGUFValueType.ARRAY, item_type]

    def _check_value_type(self, number: int) -> GGUFValueType:
        try:
            return GGUFValueType(int(number))
        except ValueError:
            raise Unsound(f"the unknown value type {number}") from None

    def _get_tensor_info_field(self, orig_offs: int) -> ReaderField:
        name_bytes = int(self._get(orig_offs, np.uint64)[0])
        dimensions = int(self._get(orig_offs + 8 + min(name_bytes, MAX_STRING_BYTES), np.uint32)[0])
        if dimensions > MAX_DIMENSIONS:
            raise Unsound(f"a tensor of {dimensions} dimensions at offset {orig_offs}")
        return super()._get_tensor_info_field(orig_offs)

    def _build_fields(self, offs: int, count: int) -> int:
        if count > MAX_KEYS:
            raise Unsound(f"{count} metadata keys")
        end: int = super()._build_fields(offs, count)
        return end

    def _build_tensor_info(self, offs: int, count: int) -> tuple[int, list[Any]]:
        if count > MAX_TENSORS:
            raise Unsound(f"{count} tensors")
        info: tuple[int, list[Any]] = super()._build_tensor_info(offs, count)
        for field in info[1]:
            _check_tensor(field)
        return info

    def _end_of_strings(self, offset: int, count: int) -> int:
        """Step over strings, one length at a time, in plain integers: numpy would take ten times as long."""
        data = memoryview(self.data)
        unpack: Callable[..., tuple[int]] = struct.Struct(
            "<Q" if (sys.byteorder == "little") == (self.byte_order == "I") else ">Q"
        ).unpack_from
        limit = len(data) - 8
        for _ in range(count):
            if offset > limit:
                raise Unsound(f"truncated: an array of {count} strings runs past the end of the file")
            offset += 8 + unpack(data, offset)[0]
        if offset > len(data):
            raise Unsound(f"truncated: an array of {count} strings runs past the end of the file")
        return offset


def _check_tensor(field: ReaderField) -> None:
    _, name, _, dims, raw_type, _ = field.parts
    elements = 1
    for size in dims.tolist():
        elements *= size
    if elements >= 1 << 60:  # the library multiplies in 64 bits
        raise Unsound(f"tensor {bytes(name)[:80]!r} has {elements} elements")
    block = {int(kind): sizes[0] for kind, sizes in GGML_QUANT_SIZES.items()}.get(int(raw_type[0]))
    if block is None:
        raise Unsound(f"tensor {bytes(name)[:80]!r} has the unknown type {raw_type[0]}")
    if len(dims) and dims[0] % block:
        raise Unsound(f"tensor {bytes(name)[:80]!r} has rows of {dims[0]}, its type packs {block} at a time")


def probe(path: Path) -> GgufFacts:
    """Read the facts. Raises: Unsound, or what the library raises for a file that breaks the format."""
    reader = BoundedReader(path)
    metadata: dict[str, Scalar] = {}
    arrays: dict[str, ArrayFact] = {}
    text_bytes = 0
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        if len(key) > MAX_KEY_BYTES:
            raise Unsound(f"a key of {len(key)} bytes")
        if field.types[0] == GGUFValueType.ARRAY:
            arrays[key] = _array_fact(field)
            continue
        text_bytes += int(field.parts[-1].nbytes)
        if text_bytes > MAX_TEXT_BYTES:
            raise Unsound(f"more than {MAX_TEXT_BYTES} bytes of text in its metadata")
        metadata[key] = field.contents()
    tensors = tuple(
        TensorFact(t.name, tuple(t.shape.tolist()), t.tensor_type.name, int(t.n_bytes)) for t in reader.tensors
    )
    return _Metadata(metadata, arrays).facts(tensors, path.stat().st_size)


def _array_fact(field: ReaderField) -> ArrayFact:
    length = int(field.parts[4][0])
    kept = bool(field.data) and length <= KEPT_ARRAY_LENGTH
    return ArrayFact(field.types[1].name, length, tuple(field.parts[field.data[0]].tolist()) if kept else ())


class _Metadata:
    """Typed look-ups: a value of the wrong type is refused, one that is missing has a default."""

    def __init__(self, metadata: dict[str, Scalar], arrays: dict[str, ArrayFact]) -> None:
        self._metadata, self._arrays = metadata, arrays
        self._architecture = self._text("general.architecture")
        if not self._architecture:
            raise Unsound("no general.architecture in its metadata")
        if not _ARCHITECTURE.fullmatch(self._architecture):
            raise Unsound(f"general.architecture is {self._architecture[:80]!r}")

    def facts(self, tensors: tuple[TensorFact, ...], file_size_bytes: int) -> GgufFacts:
        own = f"{self._architecture}."
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        blocks = self._count(own + "block_count")
        if blocks > MAX_BLOCKS:
            raise Unsound(f"{blocks} blocks")
        embedding = self._count(own + "embedding_length")
        heads = self._per_block(own + "attention.head_count", blocks)
        kv_heads = self._per_block(own + "attention.head_count_kv", blocks) or heads
        head_length = embedding // max(heads, default=0) if any(heads) else 0
        key_length = self._count(own + "attention.key_length", head_length)
        tokens = self._arrays.get("tokenizer.ggml.tokens")
        embedding_rows = shapes.get("token_embd.weight", (0, 0))[-1]
        pooling = self._metadata.get(own + "pooling_type")
        causal = self._metadata.get(own + "attention.causal")
        window = self._count(own + "attention.sliding_window")
        return GgufFacts(
            architecture=self._architecture,
            kind=self._kind(own),
            name=self._text("general.name"),
            parameter_count=sum(_product(tensor.shape) for tensor in tensors),
            file_type=self._file_type(tensors),
            file_size_bytes=file_size_bytes,
            context_length=self._count(own + "context_length"),
            embedding_length=embedding,
            block_count=blocks,
            head_counts=heads,
            kv_head_counts=kv_heads,
            key_length=key_length,
            value_length=self._count(own + "attention.value_length", head_length),
            feed_forward_lengths=self._per_block(own + "feed_forward_length", blocks),
            vocab_size=self._count(own + "vocab_size", tokens.length if tokens else embedding_rows),
            expert_count=self._count(own + "expert_count"),
            expert_used_count=self._count(own + "expert_used_count"),
            sliding_window=window or None,
            recurrent=self._recurrent(own),
            rope_dimension_count=self._count(own + "rope.dimension_count", key_length),
            rope_freq_base=self._number(own + "rope.freq_base", 10000.0),
            rope_scaling=self._text(own + "rope.scaling.type", "none"),
            pooling=None if pooling is None else _pooling_name(pooling),
            causal=self._architecture not in ENCODERS if causal is None else bool(causal),
            chat_template=self._text("tokenizer.chat_template") or None,
            tokenizer_model=self._text("tokenizer.ggml.model"),
            bos_token_id=self._token("bos"),
            eos_token_id=self._token("eos"),
            eot_token_id=self._token("eot"),
            fill_in_middle=self._fill_in_middle(),
            metadata=self._metadata,
            arrays=self._arrays,
            tensors=tensors,
        )

    def _kind(self, own: str) -> str:
        kind = self._text("general.type", "model")
        vision_only = not self._metadata.get(own + "block_count") and self._metadata.get(own + "vision.block_count")
        if kind == "mmproj" or self._architecture == "clip" or vision_only:
            return "projector"
        return kind

    def _file_type(self, tensors: tuple[TensorFact, ...]) -> str:
        number = self._metadata.get("general.file_type")
        if isinstance(number, int) and number != LlamaFileType.GUESSED and number in set(LlamaFileType):
            return str(LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
        # A file that does not say is called after the type that most of its bytes have.
        bytes_by_type: dict[str, int] = {}
        for tensor in tensors:
            bytes_by_type[tensor.type] = bytes_by_type.get(tensor.type, 0) + tensor.size_bytes
        return max(bytes_by_type, key=lambda name: bytes_by_type[name], default="unknown")

    def _recurrent(self, own: str) -> RecurrentFact | None:
        if f"{own}ssm.state_size" not in self._metadata:
            return None
        return RecurrentFact(
            conv_kernel=self._count(own + "ssm.conv_kernel"),
            inner_size=self._count(own + "ssm.inner_size"),
            state_size=self._count(own + "ssm.state_size"),
            time_step_rank=self._count(own + "ssm.time_step_rank"),
            group_count=self._count(own + "ssm.group_count"),
        )

    def _fill_in_middle(self) -> bool:
        newer = all(self._token(name) is not None for name in ("fim_pre", "fim_suf", "fim_mid"))
        return newer or all(self._token(name) is not None for name in ("prefix", "suffix", "middle"))

    def _token(self, name: str) -> int | None:
        value = self._metadata.get(f"tokenizer.ggml.{name}_token_id")
        return value if isinstance(value, int) else None

    def _text(self, key: str, default: str = "") -> str:
        value = self._metadata.get(key, default)
        if not isinstance(value, str):
            raise Unsound(f"{key} is not a string")
        return value

    def _number(self, key: str, default: float) -> float:
        value = self._metadata.get(key, default)
        if isinstance(value, str):
            raise Unsound(f"{key} is not a number")
        return float(value)

    def _count(self, key: str, default: int = 0) -> int:
        if array := self._arrays.get(key):
            return max(_counts(key, array), default=default)
        value = self._metadata.get(key, default)
        if not isinstance(value, int) or value < 0:
            raise Unsound(f"{key} is not a count")
        return value

    def _per_block(self, key: str, blocks: int) -> tuple[int, ...]:
        if array := self._arrays.get(key):
            counts = _counts(key, array)
            if len(counts) != blocks:
                raise Unsound(f"{key} has {len(counts)} counts for {blocks} blocks")
            return counts
        return (self._count(key),) * blocks if key in self._metadata else ()


def _counts(key: str, array: ArrayFact) -> tuple[int, ...]:
    if any(value < 0 for value in array.values):
        raise Unsound(f"{key} has a count below zero")
    return tuple(int(value) for value in array.values)


def _pooling_name(value: Scalar) -> str:
    try:
        return str(PoolingType(int(value)).name).lower()
    except ValueError:
        return "none"


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def answer(path: Path) -> Report | Refusal:
    """The facts, or why there are none."""
    try:
        return Report(probe(path))
    except KeyError as error:  # whose text is its argument in quotes
        return Refusal(str(error.args[0]))
    except (Unsound, ValueError, IndexError, OverflowError, OSError, MemoryError) as error:
        return Refusal(str(error) or type(error).__name__)


def main() -> int:
    """Answer for the files named on the command line."""
    if sys.platform == "linux":  # elsewhere it does not count what numpy allocates
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))
    sys.stdout.buffer.write(encode_answers([answer(Path(path)) for path in sys.argv[1:]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
