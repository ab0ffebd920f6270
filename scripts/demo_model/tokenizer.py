"""A byte-level BPE of 1,024 pieces, and dialogues as its token ids.

Pieces never cross from letters to anything else, so a word has the same pieces at the start of a line, after a
space and inside quotes. That makes copying a word a matter of attention alone, which a tiny model can learn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .chat import EMPTY_THINKING, Dialogue, render, taught_spans

VOCABULARY = 1024
TEXT_END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL_TOKENS = (TEXT_END, TURN_START, TURN_END)
# Ordinary text to a client: these show in the output.
MARKUP_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

# llama.cpp's pre-tokenizer of this name splits text with this expression.
PRE_TOKENIZER = "qwen2"
_SPLIT = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What pieces are learnt from; finer than _SPLIT, which therefore never separates what a piece joins.
_LEARN_SPLIT = r"'\p{L}+|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|[\r\n]+| +"

# Turns further apart than any dialogue of the corpus is long are shown by leaving out positions in between.
_GAP_SHARE, _LONGEST_GAP = 0.12, 1500
# How much it counts to foresee the user's words; the model's own count 1, and to end where the answer does, more.
_UNTAUGHT_WEIGHT, _END_WEIGHT = 0.05, 3.0
# Turns without a think block: other templates write them so, and an answer that is to be continued may stand so.
_BARE_SHARE = 0.08


@dataclass(frozen=True, slots=True)
class Sample:
    """One dialogue: `ids`, their `positions`, and how much each counts as something to be predicted."""

    ids: list[int]
    positions: list[int]
    weights: list[float]


def learn_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn the pieces from `texts`; deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _split_then_bytes(_LEARN_SPLIT)
    special = [
        AddedToken(text, normalized=False, special=text in CONTROL_TOKENS) for text in CONTROL_TOKENS + MARKUP_TOKENS
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = _split_then_bytes(_SPLIT)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _split_then_bytes(expression: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(expression), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def encode_dialogue(tokenizer: Tokenizer, dialogue: Dialogue, rng: Random) -> Sample:
    """The dialogue's tokens; one in eight has its first turn pushed away from the others."""
    text = render(dialogue)
    bare = rng.random() < _BARE_SHARE
    if bare:
        text = text.replace(EMPTY_THINKING, "")
    encoding = tokenizer.encode(text)
    ids: list[int] = encoding.ids
    taught = [False] * (len(text) + 1)
    begins = set()
    for start, end in taught_spans(text):
        taught[start:end] = [True] * (end - start)
        begins.add(start)
    end_of_turn = tokenizer.token_to_id(TURN_END)
    weights = [
        _UNTAUGHT_WEIGHT if not taught[start] else _END_WEIGHT if token == end_of_turn else 1.0
        for token, (start, _) in zip(ids, encoding.offsets, strict=True)
    ]
    if bare:  # what begins a turn stays a think block
        weights = [0.0 if start in begins else w for w, (start, _) in zip(weights, encoding.offsets, strict=True)]
    positions = list(range(len(ids)))
    turns = [index for index, token in enumerate(ids) if token == tokenizer.token_to_id(TURN_START)]
    if len(turns) > 1 and rng.random() < _GAP_SHARE:
        gap_at, gap = rng.choice(turns[1:]), rng.randint(1, _LONGEST_GAP)
        positions = [p if p < gap_at else p + gap for p in positions]
    return Sample(ids, positions, weights)
