from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from node.engine.binding import Batch, Context, Model
from node.engine.errors import LoadError
from node.engine.llama_log import LlamaLog, allocations, device_of
from node.engine.logprobs import token_logprob
from node.engine.sampling import Candidates, Sampler
from node.engine.threads import _quota_cores
from node.jobs import Sampling
from node.runner.protocol import Adapter, DeviceBytes, LoadSpec
from tests.support.tiny_gguf import CONTROL_TOKENS, TURN_START, write_tiny_adapter, write_tiny_bert, write_tiny_llama

LoadContext = Callable[..., Context]
MIB = 1 << 20


def test_allocations_are_summed_by_device() -> None:
    lines = [
        "load_tensors:   CPU_Mapped model buffer size =   284.90 MiB",
        "load_tensors:   CPU_REPACK model buffer size =   194.10 MiB",
        "load_tensors:        CUDA0 model buffer size =   100.00 MiB",
        "llama_context:  CUDA_Host  output buffer size =     0.50 MiB",
        "llama_kv_cache:      CUDA0 KV buffer size =   112.00 MiB",
        "llama_memory_recurrent:        CPU RS buffer size =     1.00 MiB",
        "sched_reserve:      CUDA0 compute buffer size =    33.00 MiB",
        "llama_adapter_lora_init_impl:      CUDA0 LoRA buffer size =     2.00 MiB",
        "llama_kv_cache: size =  112.00 MiB (  1024 cells,  28 layers,  4/4 seqs)",
    ]
    assert allocations(lines) == (
        DeviceBytes("CPU", 479 * MIB, 1 * MIB, MIB // 2),
        DeviceBytes("CUDA0", 102 * MIB, 112 * MIB, 33 * MIB),
    )


def test_buffers_belong_to_the_device_they_live_on() -> None:
    names = ["CPU", "CPU_Mapped", "CUDA_Host", "Vulkan0", "MTL0_Mapped", "RPC[127.0.0.1:50052]"]
    assert [device_of(n) for n in names] == ["CPU", "CPU", "CPU", "Vulkan0", "MTL0", "RPC[127.0.0.1:50052]"]


def test_a_loaded_model_says_what_it_took(tiny: Path, llama_log: LlamaLog) -> None:
    log, seen = llama_log, list[float]()
    spec = LoadSpec(model_path=str(tiny), context_tokens=256, parallel=2)
    model = Model(spec, log, seen.append)
    Context(model, spec, log)
    (ram,) = model.allocated()
    layers, width, two_bytes = 2, 64, 2
    assert ram.kv_bytes == 2 * layers * 2 * 256 * width * two_bytes  # K and V, two sequences
    assert ram.model_bytes > 0
    assert ram.compute_bytes > 0
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_missing_file_is_named(tmp_path: Path, llama_log: LlamaLog) -> None:
    spec = LoadSpec(model_path=str(tmp_path / "none.gguf"), context_tokens=64)
    with pytest.raises(LoadError, match=r"no model file at .*none\.gguf"):
        Model(spec, llama_log, lambda _: None)


@pytest.mark.parametrize("cut", [0, 3, 100, 50_000])
def test_a_broken_file_is_refused_with_a_reason(tmp_path: Path, tiny: Path, llama_log: LlamaLog, cut: int) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(tiny.read_bytes()[:cut])
    with pytest.raises(LoadError, match=r"broken.gguf can't be loaded: .{10,}"):
        Model(LoadSpec(model_path=str(path), context_tokens=64), llama_log, lambda _: None)


def test_a_quantised_cache_without_flash_attention_is_refused(tiny: Path, load_context: LoadContext) -> None:
    with pytest.raises(LoadError, match="q8_0 KV cache needs flash attention"):
        load_context(tiny, kv_type="q8_0", flash_attention="off")


def first_logits(context: Context) -> np.ndarray:
    batch = Batch(4)
    last = batch.add(0, [10, 11, 12, 13], 0, output=True)
    assert context.decode(batch) == 0
    return context.logits(last).copy()


def test_an_adapter_changes_the_logits_by_its_scale(models: Path, tiny: Path, load_context: LoadContext) -> None:
    adapter = str(write_tiny_adapter(models / "adapter.gguf"))
    plain, none, some, more = (
        first_logits(load_context(tiny, adapters=adapters))
        for adapters in [(), *((Adapter(path=adapter, scale=s),) for s in (0.0, 0.5, 1.0))]
    )
    np.testing.assert_allclose(none, plain, atol=1e-5)
    assert np.abs(some - plain).max() > 1e-3
    assert np.abs(more - some).max() > 1e-3


def test_an_adapter_of_another_model_is_refused(models: Path, tiny: Path, load_context: LoadContext) -> None:
    adapter = write_tiny_adapter(models / "wide.gguf", width=128)
    with pytest.raises(LoadError, match=r"adapter wide\.gguf can't be loaded"):
        load_context(tiny, adapters=(Adapter(path=str(adapter)),))


def test_text_survives_the_vocabulary(tiny: Path, load_context: LoadContext) -> None:
    vocab = load_context(tiny).model.vocab
    text = "Grüße, 世界! 🦙\n\0 end"
    assert b"".join(map(vocab.piece, vocab.tokenize(text, add_special=False, parse_special=True))).decode() == text
    marker = CONTROL_TOKENS[TURN_START]
    assert vocab.tokenize(marker, add_special=False, parse_special=True) == [TURN_START]
    assert len(vocab.tokenize(marker, add_special=False, parse_special=False)) > 1
    assert vocab.controls_within((f"x{marker}y",)) == {TURN_START}
    assert vocab.tokenize("a\ud800b", add_special=False, parse_special=True)  # half a surrogate pair


def test_bos_is_added_once(models: Path, llama_log: LlamaLog) -> None:
    spec = LoadSpec(model_path=str(write_tiny_bert(models / "bos.gguf")), context_tokens=64)
    vocab = Model(spec, llama_log, lambda _: None).vocab
    once = vocab.tokenize("ab", add_special=True, parse_special=True)
    assert once[0] == vocab.bos
    assert once.count(vocab.bos) == 1


def test_infill_surrounds_the_gap_with_its_tokens(models: Path, llama_log: LlamaLog) -> None:
    path = write_tiny_llama(models / "fim.gguf", fill_in_middle=True)
    vocab = Model(LoadSpec(model_path=str(path), context_tokens=64), llama_log, lambda _: None).vocab
    tokens = vocab.infill("def f(", "return x")
    assert tokens is not None
    assert b"".join(map(vocab.piece, tokens)) == b"<|fim_prefix|>def f(<|fim_suffix|>return x<|fim_middle|>"


def test_a_vocabulary_without_infill_tokens_says_so(models: Path, llama_log: LlamaLog) -> None:
    spec = LoadSpec(model_path=str(write_tiny_bert(models / "no-fim.gguf")), context_tokens=64)
    assert Model(spec, llama_log, lambda _: None).vocab.infill("a", "b") is None


def test_log_probabilities_are_those_of_the_whole_vocabulary(tiny: Path, load_context: LoadContext) -> None:
    context = load_context(tiny)
    logits, vocab = first_logits(context), context.model.vocab
    every = token_logprob(logits, 7, vocab.size, vocab)
    assert sum(np.exp(a.logprob) for a in every.top) == pytest.approx(1.0)
    assert [a.logprob for a in every.top] == sorted((a.logprob for a in every.top), reverse=True)
    assert every.chosen in every.top
    assert every.top[0].token == logits.argmax()
    assert token_logprob(logits, 7, 2, vocab).top == every.top[:2]
    assert token_logprob(logits, 7, 0, vocab).top == ()


def test_every_position_draws_anew(tiny: Path, load_context: LoadContext) -> None:
    vocab = load_context(tiny).model.vocab
    sampler = Sampler(
        vocab, Candidates(vocab.size), Sampling(seed=1, top_k=0, top_p=1.0), grammar=None, context_tokens=64
    )
    seen = set[int]()
    for _ in range(200):
        seen.add(token := sampler.sample(np.zeros(vocab.size, np.float32)))
        sampler.accept(token)
    sampler.close()
    assert 140 < len(seen) < 190  # 165 +- 5 of 512 equally likely tokens


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_looking_at_the_likely_tokens_only_changes_nothing(
    models: Path, load_context: LoadContext, monkeypatch: pytest.MonkeyPatch, seed: int, penalty: float
) -> None:
    path = models / "wide-vocabulary.gguf"
    if not path.exists():
        write_tiny_llama(path, vocab=3900)
    vocab = load_context(path).model.vocab
    dice = np.random.default_rng(seed)
    rows = (dice.standard_normal((20, vocab.size)) * 8).astype(np.float32)
    options = Sampling(seed=seed, temperature=1.3, repeat_penalty=penalty)

    def run(smallest_vocabulary: int) -> list[int]:
        monkeypatch.setattr("node.engine.sampling._PRESELECT_VOCABULARY", smallest_vocabulary)
        sampler = Sampler(vocab, Candidates(vocab.size), options, grammar=None, context_tokens=64)
        sampler.remember_prompt([1, 2, 3])
        tokens = []
        for row in rows:
            tokens.append(sampler.sample(row))
            sampler.accept(tokens[-1])
        sampler.close()
        return tokens

    assert run(1) == run(1 << 20)


@pytest.mark.parametrize(
    ("line", "cores"), [("max 100000", 65536), ("150000 100000", 1), ("400000 100000", 4), ("", 65536)]
)
def test_a_cgroup_quota_counts_in_whole_cores(line: str, cores: int) -> None:
    assert _quota_cores(line) == cores
