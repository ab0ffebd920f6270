from __future__ import annotations

import itertools
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import ArrayFact, InvalidGguf, RecurrentFact, TensorFact, read_gguf_facts
from registry.gguf_facts import Refusal, Report
from registry.gguf_probe import answer
from tests.support.tiny_gguf import write_tiny_bert, write_tiny_llama


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def header(tensors: int, keys: int, *, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


ARCHITECTURE = key("general.architecture", 8, string("llama"))
HUGE = (1 << 64) - 1
U32, I32, STRING, ARRAY = 4, 5, 8, 9
BLOCKS = key("llama.block_count", U32, struct.pack("<I", 2))
HEADS = key("llama.attention.head_count", ARRAY, b"")


def tensor(name: str, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + dims + struct.pack("<IQ", kind, offset)


def test_a_models_facts_are_read(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf", layers=3, kv_heads=2, vocab=600, weights="Q8_0", fill_in_middle=True)
    facts = read_gguf_facts(path)
    assert (facts.architecture, facts.kind, facts.name, facts.file_type) == ("llama", "model", "m", "Q8_0")
    assert (facts.block_count, facts.head_counts, facts.kv_head_counts) == (3, (4, 4, 4), (2, 2, 2))
    assert (facts.key_length, facts.value_length, facts.feed_forward_lengths) == (16, 16, (128, 128, 128))
    assert (facts.context_length, facts.embedding_length, facts.vocab_size) == (512, 64, 600)
    assert (facts.bos_token_id, facts.eos_token_id, facts.eot_token_id) == (0, 2, 2)
    assert (facts.causal, facts.pooling, facts.is_embedding, facts.fill_in_middle) == (True, None, False, True)
    assert (facts.expert_count, facts.sliding_window, facts.recurrent) == (0, None, None)
    assert (facts.tokenizer_model, facts.rope_freq_base, facts.rope_scaling) == ("gpt2", 10000.0, "none")
    assert facts.chat_template is not None
    assert facts.file_size_bytes == path.stat().st_size
    assert facts.tensors[0] == TensorFact("token_embd.weight", (64, 600), "Q8_0", 600 * 64 // 32 * 34)
    assert facts.parameter_count == sum(int(np.prod(t.shape)) for t in facts.tensors)
    assert facts.arrays["tokenizer.ggml.tokens"] == ArrayFact("STRING", 600)
    assert facts.of_architecture("block_count") == 3
    assert "tokenizer.ggml.tokens" not in facts.metadata


def test_an_encoder_is_told_from_a_generator(tmp_path: Path) -> None:
    facts = read_gguf_facts(write_tiny_bert(tmp_path / "bert.gguf"))
    assert (facts.architecture, facts.causal, facts.pooling, facts.is_embedding) == ("bert", False, "mean", True)


def test_hybrid_models_have_counts_per_block_and_a_recurrent_state(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "h.gguf", "granitehybrid")
    writer.add_block_count(3)
    writer.add_embedding_length(128)
    writer.add_head_count(8)
    writer.add_head_count_kv([0, 4, 0])
    writer.add_feed_forward_length([64, 32, 16])
    writer.add_sliding_window(1024)
    writer.add_expert_count(8)
    writer.add_expert_used_count(2)
    for name, value in (("conv_kernel", 4), ("inner_size", 256), ("state_size", 16), ("time_step_rank", 8)):
        writer.add_uint32(f"granitehybrid.ssm.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    facts = read_gguf_facts(tmp_path / "h.gguf")
    assert (facts.head_counts, facts.kv_head_counts) == ((8, 8, 8), (0, 4, 0))
    assert (facts.feed_forward_lengths, facts.sliding_window) == ((64, 32, 16), 1024)
    assert (facts.expert_count, facts.expert_used_count) == (8, 2)
    assert facts.recurrent == RecurrentFact(
        conv_kernel=4, inner_size=256, state_size=16, time_step_rank=8, group_count=0
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"GG", "truncated"),
        (b"\x80\x02}q\x00.", "magic"),
        (b"GGUF", "truncated"),
        (header(0, 0)[:-1], "truncated"),
        (header(0, 0, version=1), "version 1"),
        (header(0, 0), "no general.architecture"),
        (header(0, HUGE), "metadata keys"),
        (header(HUGE, 1) + ARCHITECTURE, "tensors"),
        (header(0, 60_000) + ARCHITECTURE, "truncated"),
        (header(60_000, 1) + ARCHITECTURE, "truncated"),
        (header(0, 1) + struct.pack("<Q", HUGE), "a string of"),
        (header(0, 1) + key("a", STRING, struct.pack("<Q", 1 << 40)), "a string of"),
        (header(0, 1) + key("a", ARRAY, struct.pack("<IQ", U32, HUGE)), "an array of"),
        (header(0, 1) + key("a", ARRAY, struct.pack("<IQ", STRING, HUGE)), "an array of"),
        (header(0, 1) + key("a", ARRAY, struct.pack("<IQ", U32, 1 << 24)), "truncated"),
        (header(0, 1) + key("a", ARRAY, struct.pack("<IQ", STRING, 1 << 24)), "truncated"),
        (header(0, 1) + key("a", ARRAY, struct.pack("<IQQ", STRING, 1, HUGE)), "truncated"),
        (header(0, 1) + key("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 5000), "nested"),
        (header(0, 1) + key("a", 77, b"\0" * 8), "unknown value type 77"),
        (header(0, 1) + key("general.architecture", U32, b"\0" * 4), "general.architecture is not a string"),
        (header(0, 1) + key("general.architecture", STRING, string("../x y")), "general.architecture is '../x y'"),
        (header(0, 3) + ARCHITECTURE + BLOCKS + HEADS + struct.pack("<IQI", U32, 1, 4), "1 counts for 2 blocks"),
        (header(0, 3) + ARCHITECTURE + BLOCKS + HEADS + struct.pack("<IQ", STRING, 2) + string("x") * 2, "0 counts"),
        (header(0, 3) + ARCHITECTURE + BLOCKS + HEADS + struct.pack("<IQii", I32, 2, 4, -4), "below zero"),
        (header(0, 2) + ARCHITECTURE * 2, "Duplicate"),
        (header(0, 2) + ARCHITECTURE + key("llama.block_count", U32, b"\xff" * 4), "4294967295 blocks"),
        (header(0, 2) + ARCHITECTURE + key("llama.block_count", STRING, string("x")), "is not a count"),
        (header(0, 2) + ARCHITECTURE + key("general.alignment", U32, b"\0" * 4), "alignment"),
        (header(1, 1) + ARCHITECTURE + tensor("t", [1 << 40]), "truncated"),
        (header(1, 1) + ARCHITECTURE + tensor("t", [1 << 32, 1 << 32]), "elements"),
        (header(1, 1) + ARCHITECTURE + tensor("t", [1] * 9), "dimensions"),
        (header(1, 1) + ARCHITECTURE + tensor("t", [32], kind=999), "unknown type"),
        (header(1, 1) + ARCHITECTURE + tensor("t", [31], kind=8) + bytes(64), "rows of 31"),
        (header(1, 1) + ARCHITECTURE + tensor("t", [8], offset=1 << 60), "truncated"),
        (header(2, 1) + ARCHITECTURE + tensor("t", [1]) * 2 + bytes(64), "duplicated tensor"),
        (header(0, 1) + struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", U32, 1), "invalid start byte"),
    ],
    ids=itertools.count(),
)
def test_a_file_that_breaks_the_format_is_refused_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    started = time.process_time()
    answered = answer(path)
    assert isinstance(answered, Refusal)
    assert reason in answered.reason
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not start with the bytes GGUF"),
        (b"\x80\x02}q\x00.", "does not start with the bytes GGUF"),
        (header(0, HUGE), "metadata keys"),
    ],
)
def test_the_reason_for_refusing_reaches_the_caller(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(InvalidGguf, match=f"^bad.gguf: .*{reason}"):
        read_gguf_facts(path)


def test_a_file_cut_anywhere_is_refused(tiny: Path, tmp_path: Path) -> None:
    whole = tiny.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in range(4, len(whole), len(whole) // 97):
        path.write_bytes(whole[:length])
        assert isinstance(answer(path), Refusal)


@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_with_changed_bytes_is_read_or_refused(tiny: Path, tmp_path: Path, data: st.DataObject) -> None:
    changed = bytearray(tiny.read_bytes())
    metadata = 1500  # the fields before the vocabulary
    for place in data.draw(st.lists(st.integers(0, metadata), min_size=1, max_size=4)):
        changed[place] = data.draw(st.sampled_from([0, 1, 9, 127, 128, 255]))
    path = tmp_path / "changed.gguf"
    path.write_bytes(changed)
    answered = answer(path)
    assert isinstance(answered, Report) or answered.reason


def test_a_vocabulary_of_usual_size_is_read_quickly(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama")
    writer.add_token_list([f"token{i}" for i in range(128_256)])
    writer.add_token_merges([f"a{i} b{i}" for i in range(280_000)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    started = time.monotonic()
    facts = read_gguf_facts(tmp_path / "big.gguf")
    assert facts.vocab_size == 128_256
    assert time.monotonic() - started < 10  # the library alone takes 12 s, we 0.3 s


def test_a_reader_that_dies_is_an_error_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.gguf_facts.PROBE_TIMEOUT_S", 0.0)
    path = write_tiny_llama(tmp_path / "m.gguf", layers=1)
    with pytest.raises(InvalidGguf, match="within 0 s"):
        read_gguf_facts(path)
    with pytest.raises(FileNotFoundError):
        read_gguf_facts(tmp_path / "none.gguf")
