"""llama.cpp reads our grammars, and what it samples under them satisfies the schema."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from node.grammar import grammar_for
from tests.grammar.schema_cases import CASES
from tests.support.tiny_gguf import END_OF_TEXT, write_tiny_llama

VOCAB = 512
MAX_TOKENS = 400


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.c_void_p]:
    path: Path = write_tiny_llama(tmp_path_factory.mktemp("vocab") / "tiny.gguf", vocab=VOCAB)
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    yield llama_cpp.llama_model_get_vocab(model)
    llama_cpp.llama_model_free(model)


def piece(vocab: Any, token: int) -> bytes:
    buffer = ctypes.create_string_buffer(64)
    length = llama_cpp.llama_token_to_piece(vocab, token, buffer, 64, 0, True)
    return buffer.raw[:length]


def generate(vocab: Any, grammar: str, seed: int) -> bytes | None:
    """Random text under the grammar; None where it did not come to an end in time."""
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
    assert sampler, "llama.cpp refused the grammar"
    rng = np.random.default_rng(seed)
    pieces = [piece(vocab, token) for token in range(VOCAB)]
    # A model that is eager to finish.
    eager = np.array([6.0 if p[-1:] in (b'"', b"}", b"]") else 0.0 for p in pieces])
    eager[END_OF_TEXT] = 12.0
    out = b""
    try:
        for step in range(MAX_TOKENS):
            logits = rng.gumbel(size=VOCAB) + eager * (1 + step / 20)
            items = (llama_cpp.llama_token_data * VOCAB)()
            for token in range(VOCAB):
                items[token] = llama_cpp.llama_token_data(token, float(logits[token]), 0.0)
            array = llama_cpp.llama_token_data_array(items, VOCAB, -1, False)
            llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
            best = max(items, key=lambda item: item.logit)
            assert best.logit > -np.inf, f"the grammar allows nothing after {out!r}"
            if best.id == END_OF_TEXT:
                return out
            llama_cpp.llama_sampler_accept(sampler, best.id)
            out += pieces[best.id]
        return None
    finally:
        llama_cpp.llama_sampler_free(sampler)


@pytest.mark.parametrize("schema", CASES.values(), ids=CASES.keys())
def test_llama_samples_what_satisfies_the_schema(vocab: Any, schema: dict[str, Any]) -> None:
    text = generate(vocab, grammar_for(schema), seed=1)
    if text is not None:
        Draft202012Validator(schema).validate(json.loads(text))


def test_llama_samples_json(vocab: Any) -> None:
    texts = [generate(vocab, grammar_for("json"), seed) for seed in range(4)]
    assert all(isinstance(json.loads(text), dict) for text in texts if text is not None)
    assert any(text is not None for text in texts)


def test_the_largest_repetitions_are_read_and_kept(vocab: Any) -> None:
    grammar = grammar_for({"type": "array", "items": {"type": "null"}, "minItems": 3000, "maxItems": 65_000})
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
    assert sampler
    llama_cpp.llama_sampler_free(sampler)
