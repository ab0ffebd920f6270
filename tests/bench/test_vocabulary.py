from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.vocabulary import SPECIALS, byte_alphabet, vocabulary

ALPHABET = byte_alphabet()


@cache
def merge_ranks(size: int) -> dict[tuple[str, ...], int]:
    return {tuple(merge.split(" ")): index for index, merge in enumerate(vocabulary(size).merges)}


def tokenize(words: str, size: int) -> list[str]:
    """Byte-pair encoding as GPT-2 does it, on one piece of text."""
    rank = merge_ranks(size)
    pieces = [ALPHABET[byte] for byte in words.encode()]
    while pairs := [pair for pair in pairwise(pieces) if pair in rank]:
        best = min(pairs, key=rank.__getitem__)
        at = next(i for i in range(len(pieces)) if tuple(pieces[i : i + 2]) == best)
        pieces[at : at + 2] = ["".join(best)]
    return pieces


@pytest.mark.parametrize("size", [500, 4000, 32_000])
def test_a_vocabulary_has_exactly_the_size_asked_for_and_no_token_twice(size: int) -> None:
    tokens = vocabulary(size).tokens
    assert len(set(tokens)) == len(tokens) == size
    assert tokens[: len(SPECIALS)] == SPECIALS
    assert set(ALPHABET) <= set(tokens)


def test_every_merge_joins_known_tokens_into_a_known_token() -> None:
    words = vocabulary(4000)
    known = set(words.tokens)
    for merge in words.merges:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= known


@given(st.integers(0, 2**32))
def test_every_word_of_a_random_text_is_one_token(seed: int) -> None:
    text = vocabulary(32_000).random_text(5, seed)
    assert [len(tokenize(" " + word, 32_000)) for word in text.split()] == [1] * 5


def test_texts_of_different_seeds_begin_differently() -> None:
    words = vocabulary(32_000)
    beginnings = {words.random_text(64, seed).split()[0] for seed in range(50)}
    assert len(beginnings) > 40
    assert words.random_text(64, 7) == words.random_text(64, 7)


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        vocabulary(100)
