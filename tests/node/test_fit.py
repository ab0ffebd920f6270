from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.devices import Device, Machine, Ram
from node.errors import DoesNotFit
from node.fit import (
    ContextShape,
    Estimate,
    LayerShape,
    LoadWish,
    ModelShape,
    Placement,
    choose_load,
    default_context_tokens,
    estimate,
    place,
)
from node.fit.placement import GPU_RESERVE_BYTES
from registry import ArrayFact, GgufFacts, RecurrentFact, TensorFact

GIB, MIB = 1 << 30, 1 << 20


def facts(**changes: object) -> GgufFacts:
    base = GgufFacts(
        architecture="llama", kind="model", name="", parameter_count=1, file_type="Q4_K_M", file_size_bytes=1,
        context_length=131_072, embedding_length=4096, block_count=4, head_counts=(32,) * 4, kv_head_counts=(8,) * 4,
        key_length=128, value_length=128, feed_forward_lengths=(14_336,) * 4, vocab_size=128_256, expert_count=0,
        expert_used_count=0, sliding_window=None, recurrent=None, rope_dimension_count=128, rope_freq_base=1e4,
        rope_scaling="", pooling=None, causal=True, chat_template=None, tokenizer_model="gpt2", bos_token_id=None,
        eos_token_id=None, eot_token_id=None, fill_in_middle=False, metadata={}, arrays={},
        tensors=(
            TensorFact("token_embd.weight", (4096, 128_256), "Q4_K", 100),
            TensorFact("output_norm.weight", (4096,), "F32", 7),
            TensorFact("output.weight", (4096, 128_256), "Q6_K", 200), TensorFact("rope_freqs.weight", (64,), "F32", 3),
            *(TensorFact(f"blk.{n}.ffn_up.weight", (4096, 14_336), "Q4_K", 1000 + n) for n in range(4)),
            *(TensorFact(f"blk.{n}.ffn_norm.weight", (4096,), "F32", 5) for n in range(4)),
        ),
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def cells(shape: ModelShape) -> list[tuple[int, int]]:
    return [(layer.key_elements, layer.value_elements) for layer in shape.layers]


def test_weights_are_counted_by_layer_and_the_embeddings_stay_in_ram() -> None:
    shape = ModelShape.of(facts(), machine="riscv64")
    assert [layer.weight_bytes for layer in shape.layers] == [1005, 1006, 1007, 1008]
    assert (shape.input_bytes, shape.output.weight_bytes, shape.tied) == (103, 207, False)


@pytest.mark.parametrize(("machine", "copied"), [("x86_64", 1000), ("AMD64", 1000), ("aarch64", 1000), ("riscv64", 0)])
def test_the_copy_that_a_processor_makes_of_some_weights_counts(machine: str, copied: int) -> None:
    assert ModelShape.of(facts(), machine=machine).layers[0].repacked_bytes == copied


def test_tied_embeddings_are_an_output_layer_that_costs_memory_on_a_gpu_only() -> None:
    tied = facts(
        tensors=(TensorFact("token_embd.weight", (8, 8), "F16", 100), TensorFact("output_norm.weight", (8,), "F32", 7))
    )
    needs = estimate(ModelShape.of(tied), ContextShape(256))
    assert (needs.input_bytes, needs.layers[-1], needs.layers_in_ram[-1]) == (100, 107, 7)


def test_each_layer_keeps_keys_and_values_of_its_own_kv_heads() -> None:
    assert cells(ModelShape.of(facts(kv_head_counts=(8, 8, 2, 0)))) == [(1024, 1024), (1024, 1024), (256, 256), (0, 0)]


def test_latent_attention_keeps_no_values() -> None:
    mla = facts(
        kv_head_counts=(1,) * 4, key_length=576, value_length=512, metadata={"llama.attention.key_length_mla": 192}
    )
    assert cells(ModelShape.of(mla)) == [(576, 0)] * 4


def test_layers_that_share_the_cache_of_others_keep_none() -> None:
    shared = facts(metadata={"llama.attention.shared_kv_layers": 3})
    assert cells(ModelShape.of(shared)) == [(1024, 1024), (0, 0), (0, 0), (0, 0)]


def test_sliding_window_layers_may_have_narrower_heads() -> None:
    pattern = {"llama.attention.sliding_window_pattern": ArrayFact("BOOL", 4, (1, 1, 0, 1))}
    narrow = facts(
        metadata={"llama.attention.key_length_swa": 64, "llama.attention.value_length_swa": 32}, arrays=pattern
    )
    assert cells(ModelShape.of(narrow)) == [(512, 256), (512, 256), (1024, 1024), (512, 256)]


MAMBA = RecurrentFact(conv_kernel=4, inner_size=100, state_size=16, time_step_rank=1, group_count=2)
MAMBA_BYTES = 4 * (3 * (100 + 2 * 2 * 16) + 16 * 100)


@pytest.mark.parametrize(
    ("changes", "recurrent"),
    [
        ({"recurrent": MAMBA, "kv_head_counts": (0, 8, 0, 0)}, [True, False, True, True]),
        ({"recurrent": MAMBA, "metadata": {"llama.full_attention_interval": 4}}, [True, True, True, False]),
        ({"recurrent": MAMBA, "arrays": {"llama.attention.recurrent_layers": ArrayFact("BOOL", 4, (1, 0, 1, 0))}},
         [True, False, True, False]),
        ({}, [False] * 4),
    ],
)  # fmt: skip
def test_a_layer_attends_or_recurs_as_the_file_says(changes: dict[str, object], recurrent: list[bool]) -> None:
    shape = ModelShape.of(facts(**changes))
    assert [layer.state_bytes for layer in shape.layers] == [MAMBA_BYTES if yes else 0 for yes in recurrent]
    assert [layer.key_elements > 0 for layer in shape.layers] == [not yes for yes in recurrent]


def test_some_layers_attend_and_recur() -> None:
    shape = ModelShape.of(facts(architecture="falcon-h1", recurrent=MAMBA))
    assert all(layer.state_bytes and layer.key_elements for layer in shape.layers)


def test_an_encoder_has_no_cache() -> None:
    needs = estimate(ModelShape.of(facts(causal=False)), ContextShape(512, embedding=True))
    assert needs.layers[:4] == (1005, 1006, 1007, 1008)


@pytest.mark.parametrize(("kv_type", "per_cell"), [("f16", 4096), ("q8_0", 2176), ("q4_0", 1152)])
def test_a_cache_has_whole_steps_of_cells_for_every_sequence(kv_type: str, per_cell: int) -> None:
    shape = ModelShape.of(facts())
    needs = estimate(shape, ContextShape(1000, parallel=3, kv_type=kv_type))  # type: ignore[arg-type]
    assert needs.layers[0] - 1005 == 1024 * 3 * per_cell


def test_attention_without_flash_needs_room_for_every_head() -> None:
    shape = ModelShape.of(facts())
    flash, plain = (estimate(shape, ContextShape(8192, flash_attention=on)).compute_bytes for on in (True, False))
    assert plain - flash > 8192 * 512 * 32 * 4 * 0.8


shapes = st.builds(
    ContextShape,
    context_tokens=st.integers(4, 100_000),
    parallel=st.integers(1, 16),
    batch_tokens=st.integers(1, 4096),
    kv_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
    flash_attention=st.booleans(),
    embedding=st.booleans(),
    mmap=st.booleans(),
)


@given(shapes)
def test_more_context_or_more_sequences_never_need_less(context: ContextShape) -> None:
    shape = ModelShape.of(facts())
    needs = estimate(shape, context).ram_needed_bytes
    assert estimate(shape, replace(context, context_tokens=context.context_tokens + 300)).ram_needed_bytes >= needs
    assert estimate(shape, replace(context, parallel=context.parallel + 1)).ram_needed_bytes >= needs


# Placement: layers of 1 GiB (the output layer too), 1 GiB of compute buffers, 1 GiB that stays in RAM.
TEN = Estimate((GIB,) * 10, (GIB,) * 10, (0,) * 10, GIB, GIB, 0)
RAM = Ram(64 * GIB, 64 * GIB)


def gpus(*free_gib: float, kind: str = "gpu") -> tuple[Device, ...]:
    return tuple(
        Device(name=f"GPU{n}", kind=kind, total_bytes=80 * GIB, free_bytes=int(free * GIB) + GPU_RESERVE_BYTES)  # type: ignore[arg-type]
        for n, free in enumerate(free_gib)
    )


def layers_on(*free_gib: float, **options: object) -> tuple[int, ...]:
    return place(TEN, Machine(ram=RAM, gpus=gpus(*free_gib)), **options).layers_on  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("free", "options", "expected"),
    [
        ((), {}, ()),
        ((11,), {}, (10,)),
        ((10.9,), {}, (9,)),
        ((2,), {}, (1,)),
        ((1.9,), {}, (0,)),
        ((11, 20), {}, (0, 10)),
        ((11, 20), {"main_gpu": 0}, (10, 0)),
        ((5, 20), {"main_gpu": 0}, (0, 10)),
        ((8.25, 8.25), {}, (7, 3)),
        ((20, 20), {"spread": True}, (5, 5)),
        ((11.25, 21.25), {"spread": True}, (4, 6)),
        ((5, 4), {}, (3, 2)),
        ((11,), {"most_layers": 3}, (3,)),
        ((11,), {"most_layers": 0}, (0,)),
        ((11,), {"most_layers": 99}, (10,)),
        ((11,), {"overhead_bytes": GIB}, (9,)),
        ((0.5, 11), {}, (0, 10)),
    ],
)
def test_layers_go_to_the_fewest_gpus_that_hold_most_of_them(
    free: tuple[float, ...], options: dict[str, object], expected: tuple[int, ...]
) -> None:
    assert layers_on(*free, **options) == expected


def test_a_placement_says_what_must_be_free_where() -> None:
    placed = place(TEN, Machine(ram=RAM, gpus=gpus(5, 4)))
    assert placed == Placement((3, 2), 7 * GIB, (4 * GIB, 3 * GIB), 10)
    assert (placed.gpu_layers, placed.tensor_split, placed.needed_bytes) == (5, (3.0, 2.0), 14 * GIB)
    assert place(TEN, Machine(ram=RAM, gpus=gpus(11))).tensor_split == ()


def test_what_the_ram_can_not_hold_does_not_fit() -> None:
    with pytest.raises(DoesNotFit) as caught:
        place(TEN, Machine(ram=Ram(8 * GIB, 5 * GIB), gpus=gpus(4)))
    assert (caught.value.needed_bytes, caught.value.free_bytes) == (12 * GIB, 5 * GIB)


def test_an_integrated_gpu_takes_its_memory_from_the_ram() -> None:
    small = Ram(16 * GIB, 12 * GIB)
    assert place(TEN, Machine(ram=small, gpus=gpus(11, kind="igpu"))).layers_on == (10,)
    with pytest.raises(DoesNotFit):
        place(TEN, Machine(ram=Ram(16 * GIB, 11 * GIB), gpus=gpus(11, kind="igpu")))
    assert place(TEN, Machine(ram=Ram(16 * GIB, 2 * GIB), gpus=gpus(11))).layers_on == (10,)


@given(
    st.lists(st.floats(0, 14), max_size=4), st.booleans(), st.lists(st.integers(1, 3 * GIB), min_size=1, max_size=12)
)
def test_no_device_is_given_more_than_it_has(free: list[float], spread: bool, layers: list[int]) -> None:
    needs = Estimate(tuple(layers), tuple(layers), (0,) * len(layers), GIB, GIB // 4, 0)
    machine = Machine(ram=RAM, gpus=gpus(*free))
    placed = place(needs, machine, spread=spread)
    assert all(used <= gpu.free_bytes for used, gpu in zip(placed.gpu_bytes, machine.gpus, strict=True))
    kept = len(layers) - placed.gpu_layers
    on_gpus = sum(placed.gpu_bytes) - needs.compute_bytes * sum(1 for count in placed.layers_on if count)
    assert on_gpus == sum(layers[kept:])
    assert placed.ram_bytes == GIB + sum(layers[:kept]) + (needs.compute_bytes if kept else 0)


# Choice: a model of 4 layers, 1 GiB each, whose cache takes 64 KiB a token.
BIG = ModelShape(
    layers=(LayerShape(GIB, 0, 4096, 4096),) * 4, input_bytes=0, output=LayerShape(0), tied=False, width=64,
    inner_width=64, heads=1, query_width=64, key_width=64, vocab_size=8, train_context_tokens=40_960,
)  # fmt: skip


def chosen(machine: Machine, **wish: object) -> tuple[int, int, int]:
    choice = choose_load(BIG, machine, LoadWish(**wish), base=ContextShape(0))  # type: ignore[arg-type]
    return choice.context.context_tokens, choice.context.parallel, choice.placement.gpu_layers


def card(total_gib: float, free_gib: float | None = None) -> Machine:
    free = int((total_gib if free_gib is None else free_gib) * GIB)
    return Machine(ram=RAM, gpus=(Device(name="GPU0", total_bytes=int(total_gib * GIB), free_bytes=free),))


@pytest.mark.parametrize(("total", "tokens"), [(0, 4096), (22, 4096), (23.5, 32_768), (46, 32_768), (47.5, 262_144)])
def test_the_default_context_follows_the_memory_of_the_gpus(total: float, tokens: int) -> None:
    assert default_context_tokens(card(total)) == tokens


@pytest.mark.parametrize(
    ("machine", "wish", "expected"),
    [
        (Machine(ram=RAM), {}, (4096, 4, 0)),
        (Machine(ram=Ram(64 * GIB, 5 * GIB)), {}, (4096, 1, 0)),
        (card(80), {}, (40_960, 4, 5)),
        (card(80, 12), {}, (40_960, 2, 5)),
        (card(80, 6), {}, (4096, 3, 5)),
        (card(80, 3), {}, (4096, 1, 3)),
        (card(80), {"context_tokens": 8192, "parallel": 8}, (8192, 8, 5)),
        (card(80), {"context_tokens": 10**6}, (40_960, 4, 5)),
        (card(80), {"context_tokens": 1}, (4, 4, 5)),
        (card(80), {"most_layers": 0}, (40_960, 4, 0)),
        (card(80, 6), {"context_tokens": 32_768}, (32_768, 1, 4)),
    ],
)
def test_what_was_not_asked_for_is_as_large_as_fits_the_gpu(
    machine: Machine, wish: dict[str, object], expected: tuple[int, int, int]
) -> None:
    assert chosen(machine, **wish) == expected


def test_what_does_not_fit_is_refused_with_the_least_it_needs() -> None:
    with pytest.raises(DoesNotFit) as caught:
        chosen(Machine(ram=Ram(4 * GIB, 3 * GIB)))
    assert 4.2 * GIB < caught.value.needed_bytes < 4.3 * GIB
