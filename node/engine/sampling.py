"""Choose one token from logits: llama.cpp's samplers in llama.cpp's order, with Ollama's options.

The final draw of each position uses a generator seeded from (seed, position) alone. So a generation that another
machine continues after some forced tokens draws as if it had never stopped, and a draw repeated for the grammar's
sake disturbs nothing that follows. (Mirostat is the exception: it learns from each draw, and keeps its own.)
"""

from __future__ import annotations

import ctypes
import math
import secrets
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from node.engine.binding import Logits
from node.engine.errors import JobError
from node.engine.vocab import Vocab
from node.jobs import Sampling

# Below this vocabulary size handing over all candidates costs nothing worth saving.
_PRESELECT_VOCABULARY = 4096
# How many candidates preselection aims at, in multiples of those needed: few are quick to sort, and fewer than
# needed cost another look.
_PRESELECT_AMPLE = 8
_PRESELECT_FIRST_RANGE = 4.0
_MIROSTAT_CANDIDATES = 100  # `m` of the first mirostat, as llama.cpp's tools set it
_RANDOM_SEED = 0xFFFF_FFFF  # llama.cpp takes this seed as "any"
_MASK64 = (1 << 64) - 1


class Candidates:
    """Scratch array that samplers sort and cut in place; one serves all sequences of an engine."""

    def __init__(self, vocab_size: int) -> None:
        self._items = np.zeros(vocab_size, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._ids = np.arange(vocab_size, dtype=np.int32)
        self._data = ctypes.cast(self._items.ctypes.data, llama.llama_token_data_p)
        self.array = llama.llama_token_data_array()
        self.pointer = ctypes.pointer(self.array)

    def fill(self, logits: Logits) -> None:
        """Take every token."""
        self._items["id"] = self._ids
        self._items["logit"] = logits
        self._reset(len(self._items))

    def fill_likely(self, logits: Logits, at_least: int, within: float) -> float:
        """Take the tokens whose logit is at most `within` below the best, more if they are not `at_least` so many.

        Returns: the distance to try next time; how peaked a model's distributions are changes slowly.
        """
        best = logits.max()
        ids = np.flatnonzero(logits >= best - within)
        while len(ids) < at_least:
            within *= 1.5
            if not math.isfinite(within) or len(ids) == len(logits):
                self.fill(logits)
                return _PRESELECT_FIRST_RANGE
            ids = np.flatnonzero(logits >= best - within)
        self._items["id"][: len(ids)] = ids
        self._items["logit"][: len(ids)] = logits[ids]
        self._reset(len(ids))
        return within * 0.8 if len(ids) > at_least * _PRESELECT_AMPLE else within

    def fill_one(self, token: int) -> None:
        """Take a single token, to ask a grammar about it."""
        self._items[0] = (token, 1.0, 0.0)
        self._reset(1)

    @property
    def selected(self) -> int:
        """The token that the last sampler chose."""
        index: int = self.array.selected
        return int(self.array.data[index].id)

    @property
    def first_is_possible(self) -> bool:
        """Whether the first candidate was not ruled out."""
        return bool(self.array.data[0].logit != -math.inf)

    def _reset(self, size: int) -> None:
        array = self.array
        array.data = self._data
        array.size = size
        array.selected = -1
        array.sorted = False


class Sampler:
    """The samplers of one job, with their history.

    Raises: JobError("bad_request"): an option out of range or a grammar that does not parse.
    """

    def __init__(
        self,
        vocab: Vocab,
        candidates: Candidates,
        options: Sampling,
        *,
        grammar: str | None,
        context_tokens: int,
    ) -> None:
        _check(options, vocab)
        self._vocab = vocab
        self._candidates = candidates
        self._seed = secrets.randbits(32) if options.seed is None else options.seed
        self._position = 0
        self._window = context_tokens if options.repeat_last_n < 0 else options.repeat_last_n
        self._penalises = self._window > 0 and (
            options.repeat_penalty != 1.0 or options.presence_penalty != 0.0 or options.frequency_penalty != 0.0
        )
        self._greedy = options.temperature <= 0.0
        self._plain_greedy = self._greedy and not self._penalises and not options.logit_bias and grammar is None
        self._learns = bool(options.mirostat) and not self._greedy
        self._grammar = self._parse_grammar(grammar) if grammar is not None else None
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._fill_chain(options)
        self._preselect = self._count_for_preselection(options)
        self._within = _PRESELECT_FIRST_RANGE

    @property
    def learns_from_draws(self) -> bool:
        """Forced tokens must be replayed through `sample`, not only accepted: mirostat adapts to each draw."""
        return self._learns

    def remember_prompt(self, tokens: Sequence[int]) -> None:
        """Let penalties see the end of the prompt, as Ollama's do."""
        if self._penalises:
            for token in tokens[-self._window :]:
                llama.llama_sampler_accept(self._chain, token)

    def sample(self, logits: Logits, *, free: bool = False) -> int:
        """Choose the next token; the caller then says with `accept` which token really follows.

        `free`: the format does not apply yet, since the model may think first.

        Raises: JobError("internal"): no token of this vocabulary can continue the grammar.
        """
        if self._plain_greedy:
            return int(logits.argmax())
        candidates = self._candidates
        if self._preselect:
            self._within = candidates.fill_likely(logits, self._preselect, self._within)
        else:
            candidates.fill(logits)
        token = self._draw()
        if self._grammar is None or free or self._fits_grammar(token):
            return token
        # The grammar looks at every candidate's text, so it is asked about all of them only now.
        candidates.fill(logits)
        llama.llama_sampler_apply(self._grammar, candidates.pointer)
        token = self._draw()
        if not self._fits_grammar(token):
            raise JobError("internal", "no token of this model's vocabulary can continue the required format")
        return token

    def accept(self, token: int, *, free: bool = False) -> None:
        """Advance by a token that was sampled or forced; `free` as in `sample`.

        Raises: JobError("bad_request"): the grammar forbids it (only a forced token can do that).
        """
        self._position += 1
        if self._plain_greedy:
            return
        if self._grammar is not None and not free and not self._vocab.is_end(token):
            if not self._fits_grammar(token):
                raise JobError("bad_request", "the tokens to resume after do not match the required format")
            llama.llama_sampler_accept(self._grammar, token)
        if self._penalises:
            llama.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free llama.cpp's side. Idempotent."""
        for sampler in (self._chain, self._grammar):
            if sampler:
                llama.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def _draw(self) -> int:
        pointer = self._candidates.pointer
        llama.llama_sampler_apply(self._chain, pointer)
        if not self._greedy and not self._learns:
            draw = llama.llama_sampler_init_dist(_seed_at(self._seed, self._position))
            llama.llama_sampler_apply(draw, pointer)
            llama.llama_sampler_free(draw)
        return self._candidates.selected

    def _fits_grammar(self, token: int) -> bool:
        self._candidates.fill_one(token)
        llama.llama_sampler_apply(self._grammar, self._candidates.pointer)
        return self._candidates.first_is_possible

    def _parse_grammar(self, text: str) -> Any:
        grammar = llama.llama_sampler_init_grammar(self._vocab.handle, text.encode(), b"root")
        if not grammar:
            raise JobError("bad_request", "the grammar of the output format does not parse")
        return grammar

    def _fill_chain(self, o: Sampling) -> None:
        size = self._vocab.size

        def add(sampler: Any) -> None:
            llama.llama_sampler_chain_add(self._chain, sampler)

        if o.logit_bias:
            biases = (llama.llama_logit_bias * len(o.logit_bias))(*o.logit_bias.items())
            add(llama.llama_sampler_init_logit_bias(size, len(biases), biases))
        if self._penalises:
            add(
                llama.llama_sampler_init_penalties(
                    size, self._window, o.repeat_penalty, o.frequency_penalty, o.presence_penalty
                )
            )
        if self._greedy:
            add(llama.llama_sampler_init_greedy())
            return
        if self._learns:
            add(llama.llama_sampler_init_temp(o.temperature))
            seed = _seed_at(self._seed, 0)
            if o.mirostat == 1:
                add(llama.llama_sampler_init_mirostat(size, seed, o.mirostat_tau, o.mirostat_eta, _MIROSTAT_CANDIDATES))
            else:
                add(llama.llama_sampler_init_mirostat_v2(seed, o.mirostat_tau, o.mirostat_eta))
            return
        if o.top_k > 0:
            add(llama.llama_sampler_init_top_k(o.top_k))
        if o.typical_p < 1.0:
            add(llama.llama_sampler_init_typical(o.typical_p, 1))
        if o.top_p < 1.0:
            add(llama.llama_sampler_init_top_p(o.top_p, 1))
        if o.min_p > 0.0:
            add(llama.llama_sampler_init_min_p(o.min_p, 1))
        add(llama.llama_sampler_init_temp(o.temperature))

    def _count_for_preselection(self, o: Sampling) -> int:
        """How many of the likeliest tokens certainly contain all that top_k keeps; 0: no such number.

        Penalties that only lower can push at most the window's tokens out of the best.
        """
        if self._vocab.size < _PRESELECT_VOCABULARY or self._greedy or self._learns or o.logit_bias or o.top_k <= 0:
            return 0
        if not self._penalises:
            return o.top_k
        lowering = o.repeat_penalty >= 1.0 and o.presence_penalty >= 0.0 and o.frequency_penalty >= 0.0
        return o.top_k + self._window if lowering else 0


def _check(o: Sampling, vocab: Vocab) -> None:
    """Refuse what llama.cpp would answer by aborting the process."""
    numbers = {
        "temperature": o.temperature,
        "top_p": o.top_p,
        "min_p": o.min_p,
        "typical_p": o.typical_p,
        "repeat_penalty": o.repeat_penalty,
        "presence_penalty": o.presence_penalty,
        "frequency_penalty": o.frequency_penalty,
        "mirostat_tau": o.mirostat_tau,
        "mirostat_eta": o.mirostat_eta,
    }
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise JobError("bad_request", f"{name} must be a finite number")
    if o.repeat_penalty <= 0.0:
        raise JobError("bad_request", "repeat_penalty must be greater than 0")
    for token, bias in o.logit_bias.items():
        if not 0 <= token < vocab.size or math.isnan(bias):
            raise JobError("bad_request", f"logit_bias names token {token}, of {vocab.size} in the vocabulary")


def _seed_at(seed: int, position: int) -> int:
    """Mix a job's seed and a position into 32 bits (the finaliser of splitmix64)."""
    x = (seed + 0x9E37_79B9_7F4A_7C15 * (position + 1)) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK64
    mixed = (x ^ (x >> 31)) & _RANDOM_SEED
    return mixed if mixed != _RANDOM_SEED else 0
