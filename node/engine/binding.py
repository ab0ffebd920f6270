"""Thin typed wrappers of llama.cpp's model, context and batch. The engine thread owns a `Context`; nothing here
is safe to share between threads except the vocabulary and `Context.abort`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from node.engine.errors import LoadError
from node.engine.llama_log import LlamaLog, allocations
from node.engine.threads import thread_count
from node.engine.vocab import Vocab
from node.runner.protocol import DeviceBytes, FlashAttention, KvType, LoadSpec, Pooling

Logits: TypeAlias = NDArray[np.float32]

DECODE_ABORTED = 2
_KV_TYPES: dict[KvType, int] = {"f16": 1, "q8_0": 8, "q4_0": 2}  # enum ggml_type
_FLASH: dict[FlashAttention, int] = {"auto": -1, "off": 0, "on": 1}
_POOLING: dict[Pooling, int] = {"model": -1, "none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
_POOLING_NAMES: dict[int, Pooling] = {number: name for name, number in _POOLING.items()}
# Texts to embed share one cache, which is cleared for each batch, so many short ones may go together.
_EMBEDDING_SEQUENCES = 32
_ENCODER_UBATCH_TOKENS = 512


class Model:
    """Weights in memory, with their vocabulary and adapters.

    Raises: LoadError: the file is missing, not a model, or does not fit.
    """

    def __init__(self, spec: LoadSpec, log: LlamaLog, progress: Callable[[float], None]) -> None:
        llama.llama_backend_init()
        self._log = log
        self._lines_before = len(log.buffer_lines)
        path = Path(spec.model_path)
        if not path.is_file():
            raise LoadError(f"no model file at {path}")
        params = llama.llama_model_default_params()
        params.n_gpu_layers = spec.gpu_layers
        params.main_gpu = spec.main_gpu
        params.load_mode = _load_mode(spec)
        if spec.tensor_split:
            shares = (*spec.tensor_split, *[0.0] * llama.llama_max_devices())[: llama.llama_max_devices()]
            self._shares = (ctypes.c_float * len(shares))(*shares)
            params.tensor_split = self._shares
        self._progress = llama.llama_progress_callback(_progress_reporter(progress))
        params.progress_callback = self._progress
        self.handle = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise LoadError(f"{path.name} can't be loaded: {_reason(log)}")
        self.vocab = Vocab(self.handle)
        self.train_context_tokens = int(llama.llama_model_n_ctx_train(self.handle))
        self.embedding_length = int(llama.llama_model_n_embd_out(self.handle))
        self.bidirectional = _is_bidirectional(self)
        self.remembers_only_forward = bool(
            llama.llama_model_is_recurrent(self.handle) or llama.llama_model_is_hybrid(self.handle)
        )
        self._adapters = [(self._load_adapter(a.path), a.scale) for a in spec.adapters]

    def attach_adapters(self, context: Any) -> None:
        """Apply the LoRA adapters to a context."""
        if not self._adapters:
            return
        count = len(self._adapters)
        handles = (llama.llama_adapter_lora_p_ctypes * count)(*[h for h, _ in self._adapters])
        scales = (ctypes.c_float * count)(*[s for _, s in self._adapters])
        if llama.llama_set_adapters_lora(context, handles, count, scales) != 0:
            raise LoadError(f"the adapters can't be applied: {_reason(self._log)}")

    def metadata(self, key: str) -> str:
        """A scalar of the GGUF metadata as text; "" where it is absent."""
        size = llama.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def chat_template(self) -> str | None:
        """The default chat template that the file carries."""
        template = llama.llama_model_chat_template(self.handle, None)
        return template.decode("utf-8", "replace") if template else None

    def allocated(self) -> tuple[DeviceBytes, ...]:
        """What llama.cpp has allocated since this model began to load, as its log says."""
        return allocations(self._log.buffer_lines[self._lines_before :])

    def _load_adapter(self, path: str) -> Any:
        adapter = llama.llama_adapter_lora_init(self.handle, path.encode())
        if not adapter:
            raise LoadError(f"the adapter {Path(path).name} can't be loaded: {_reason(self._log)}")
        return adapter


class Context:
    """A KV cache of `sequences` sequences and the compute buffers; evaluates batches.

    Every sequence has a cache of its own (not "unified"): attention then looks at that sequence's tokens only,
    which measures 15 % faster at eight sequences, and one sequence can't take another's room.

    Raises: LoadError: it does not fit, or the asked combination does not exist.
    """

    def __init__(self, model: Model, spec: LoadSpec, log: LlamaLog) -> None:
        quantized = spec.kv_type != "f16"
        if quantized and spec.flash_attention == "off":
            raise LoadError(f"a {spec.kv_type} KV cache needs flash attention, which is switched off")
        self.model = model
        self.sequences = max(1, spec.parallel)
        if spec.embedding:
            self.sequences = max(self.sequences, _EMBEDDING_SEQUENCES)
        params = llama.llama_context_default_params()
        params.n_ctx = spec.context_tokens * self.sequences
        params.n_seq_max = self.sequences
        params.n_batch = max(spec.batch_tokens, self.sequences)
        params.n_ubatch = params.n_batch
        params.n_threads = params.n_threads_batch = thread_count(spec.threads)
        params.flash_attn_type = _FLASH["on" if quantized and spec.flash_attention == "auto" else spec.flash_attention]
        params.type_k = params.type_v = _KV_TYPES[spec.kv_type]
        params.kv_unified = False
        # A full-size cache for sliding-window layers too: otherwise a prompt can't go back to an earlier prefix.
        params.swa_full = True
        params.no_perf = True
        # Logits are wanted for one token per sequence at most; reserving a row for every token of a batch would
        # cost hundreds of megabytes with a large vocabulary.
        params.n_outputs_max = self.sequences
        if spec.embedding:
            _prepare_for_embedding(params, model, spec)
        self.handle = llama.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise LoadError(f"no context of {spec.context_tokens} tokens x {self.sequences}: {_reason(log)}")
        model.attach_adapters(self.handle)
        self.memory = llama.llama_get_memory(self.handle)
        # llama.cpp rounds up to 256; whoever asked for less means it.
        self.context_tokens = min(spec.context_tokens, int(llama.llama_n_ctx_seq(self.handle)))
        self.batch_tokens = int(llama.llama_n_batch(self.handle))
        self.can_shift = bool(self.memory) and bool(llama.llama_memory_can_shift(self.memory))
        self.pools_by: Pooling = _POOLING_NAMES[int(llama.llama_pooling_type(self.handle))]
        self._row = ctypes.c_float * model.vocab.size
        self._abort = ctypes.create_string_buffer(2)
        # ggml asks this function before every graph node, so it must not be Python: strlen of our flag is 0
        # (go on) or 1 (stop).
        self._abort_function = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)
        llama.llama_set_abort_callback(self.handle, self._abort_function, ctypes.addressof(self._abort))

    def abort(self) -> None:
        """Make the running `decode` return DECODE_ABORTED soon (CPU only). Callable from any thread."""
        self._abort.value = b"x"

    def decode(self, batch: Batch) -> int:
        """Evaluate the batch; 0 is success, else llama_decode's code. Releases the GIL."""
        code: int = llama.llama_decode(self.handle, batch.struct)
        if code == DECODE_ABORTED:
            self._abort.value = b""
        return code

    def forget_abort(self) -> None:
        """Drop an abort that came too late for its step."""
        self._abort.value = b""

    def warm_up(self) -> None:
        """Evaluate one token, so that the first request does not wait for pages to be read."""
        batch = Batch(1)
        batch.add(0, [max(0, self.model.vocab.bos)], 0, output=True)
        self.decode(batch)
        llama.llama_synchronize(self.handle)
        self.clear()

    def logits(self, index: int) -> Logits:
        """Logits of the batch's `index`-th token, [vocab], valid until the next decode. A view, not a copy."""
        pointer = llama.llama_get_logits_ith(self.handle, index)
        row: Any = self._row.from_address(ctypes.addressof(pointer.contents))
        return np.frombuffer(row, np.float32)

    def embedding(self, sequence: int) -> NDArray[np.float32]:
        """Pooled output of a sequence, [embedding_length] (rank: one number for each class), copied."""
        model = self.model
        length = int(llama.llama_model_n_cls_out(model.handle)) if self.pools_by == "rank" else model.embedding_length
        pointer = llama.llama_get_embeddings_seq(self.handle, sequence)
        return np.ctypeslib.as_array(pointer, (length,)).copy()

    def truncate(self, sequence: int, position: int) -> bool:
        """Remove the sequence's tokens from `position` on; False where this memory can't."""
        return bool(llama.llama_memory_seq_rm(self.memory, sequence, position, -1))

    def copy_sequence(self, source: int, target: int) -> None:
        """Replace the target's memory with the source's, as a whole (all that separate caches allow)."""
        llama.llama_memory_seq_rm(self.memory, target, -1, -1)
        llama.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def discard(self, sequence: int, start: int, end: int) -> None:
        """Cut `start` to `end` out of a sequence and move what follows into the gap."""
        llama.llama_memory_seq_rm(self.memory, sequence, start, end)
        llama.llama_memory_seq_add(self.memory, sequence, end, -1, start - end)

    def clear(self) -> None:
        """Forget every sequence."""
        if self.memory:
            llama.llama_memory_clear(self.memory, True)


class Batch:
    """Tokens for one decode, filled through numpy arrays that llama.cpp reads in place."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._sequence = np.zeros(capacity, np.int32)
        self._sequence_count = np.ones(capacity, np.int32)
        self._output = np.zeros(capacity, np.int8)
        base, width = self._sequence.ctypes.data, self._sequence.itemsize
        self._sequence_at = np.arange(base, base + capacity * width, width, dtype=np.uintp)
        self.struct = llama.llama_batch()
        for field, array in (
            ("token", self._token),
            ("pos", self._pos),
            ("n_seq_id", self._sequence_count),
            ("seq_id", self._sequence_at),
            ("logits", self._output),
        ):
            kind = dict(llama.llama_batch._fields_)[field]
            setattr(self.struct, field, ctypes.cast(array.ctypes.data, kind))
        self.count = 0

    def clear(self) -> None:
        """Start anew."""
        self.count = self.struct.n_tokens = 0

    def add(self, sequence: int, tokens: Sequence[int], position: int, *, output: bool) -> int:
        """Append tokens at consecutive positions; `output`: the last one's logits are wanted.

        Returns: the index of the last token in the batch.
        """
        start, end = self.count, self.count + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = range(position, position + len(tokens))
        self._sequence[start:end] = sequence
        self._output[start:end] = 0
        self._output[end - 1] = output
        self.count = self.struct.n_tokens = end
        return end - 1

    def add_one(self, sequence: int, token: int, position: int) -> int:
        """Append one token whose logits are wanted; returns its index. What a stream needs in every step."""
        index = self.count
        self._token[index] = token
        self._pos[index] = position
        self._sequence[index] = sequence
        self._output[index] = 1
        self.count = self.struct.n_tokens = index + 1
        return index

    def want_all(self) -> None:
        """Ask for the output of every token, as pooling does."""
        self._output[: self.count] = 1


def _prepare_for_embedding(params: Any, model: Model, spec: LoadSpec) -> None:
    """Pool whole texts: with the model's own kind, else last token (decoders) or mean (encoders)."""
    architecture = model.metadata("general.architecture")
    kind: Pooling = spec.pooling
    if kind == "model" and model.metadata(f"{architecture}.pooling_type") in ("", "0"):
        kind = "mean" if model.bidirectional else "last"
    params.embeddings = True
    params.pooling_type = _POOLING[kind]
    params.n_outputs_max = 0
    if model.bidirectional:
        # Every token attends to every other, so a whole input has to be evaluated at once.
        params.n_batch = max(params.n_batch, spec.context_tokens, _ENCODER_UBATCH_TOKENS)
    params.n_ubatch = params.n_batch
    # With caches of their own, sequences of different lengths are split into several passes, and llama.cpp pools
    # the last one only.
    params.kv_unified = True
    params.n_ctx = max(spec.context_tokens, params.n_batch)


def _is_bidirectional(model: Model) -> bool:
    """Whether tokens attend to later ones too, as in the BERT family."""
    architecture = model.metadata("general.architecture")
    return "bert" in architecture or model.metadata(f"{architecture}.attention.causal") == "false"


def _load_mode(spec: LoadSpec) -> int:
    """enum llama_load_mode: 0 plain, 1 mmap, 2 mlock, 3 both."""
    return (1 if spec.mmap else 0) | (2 if spec.mlock else 0)


def _progress_reporter(progress: Callable[[float], None]) -> Callable[[float, Any], bool]:
    """Report each whole percent once."""
    last = -1

    def report(fraction: float, _user_data: Any) -> bool:
        nonlocal last
        if int(fraction * 100) > last:
            last = int(fraction * 100)
            progress(fraction)
        return True

    return report


def _reason(log: LlamaLog) -> str:
    """The most telling of llama.cpp's error lines: the first, without its function name."""
    errors = log.take_errors()
    return errors[0].split(": ", 1)[-1] if errors else "llama.cpp gives no reason"
