"""Training: dialogues packed into rows, Muon for the matrices, AdamW for the rest.

Source: Muon, Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), as `torch.optim.Muon` has it. It needs
about half of AdamW's steps here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from .corpus import dialogues
from .network import Network, Shape
from .tokenizer import Sample, encode_dialogue

# Rows of three lengths, so that no short dialogue pays for a long one's attention: (tokens in a row, rows in a batch).
_BATCH_SHAPES = ((128, 24), (320, 10), (640, 5))

# Dialogues, about 300 steps' worth.
_COPYING_FIRST = 14_000

_MATRIX_RATE, _OTHER_RATE = 0.015, 0.004
_WARM_UP_STEPS = 20
_DECAY_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows; `mask` keeps each token within its own dialogue and the past."""

    ids: Tensor
    positions: Tensor
    weights: Tensor
    mask: Tensor


def samples(tokenizer: Tokenizer, seed: int) -> Iterator[Sample]:
    """The corpus in tokens; dialogues that no row can hold are left out."""
    rng = Random(seed)
    longest = _BATCH_SHAPES[-1][0]
    for dialogue in dialogues(seed, copying_first=_COPYING_FIRST):
        sample = encode_dialogue(tokenizer, dialogue, rng)
        if len(sample.ids) <= longest:
            yield sample


def batches(source: Iterator[Sample]) -> Iterator[Batch]:
    """Let each sample wait for others of its length, and yield a batch whenever enough of one length are waiting."""
    waiting: dict[tuple[int, int], list[Sample]] = {shape: [] for shape in _BATCH_SHAPES}
    for sample in source:
        row, rows = next(shape for shape in _BATCH_SHAPES if len(sample.ids) <= shape[0])
        queue = waiting[row, rows]
        queue.append(sample)
        if sum(len(each.ids) for each in queue) >= row * rows:
            packed, waiting[row, rows] = _pack(queue, row, rows)
            yield _batch(packed, row)


def _pack(queue: list[Sample], row: int, rows: int) -> tuple[list[list[Sample]], list[Sample]]:
    """Put each sample into the first row that has room; returns the rows, and the samples left over."""
    packed: list[list[Sample]] = [[] for _ in range(rows)]
    free = [row] * rows
    left = []
    for sample in queue:
        size = len(sample.ids)
        place = next((index for index in range(rows) if free[index] >= size), None)
        if place is None:
            left.append(sample)
            continue
        packed[place].append(sample)
        free[place] -= size
    return packed, left


def _batch(packed: list[list[Sample]], row: int) -> Batch:
    ids = torch.zeros(len(packed), row, dtype=torch.long)
    positions = torch.zeros_like(ids)
    owner = torch.full_like(ids, -1)
    weights = torch.zeros(len(packed), row)
    for index, samples_of_row in enumerate(packed):
        start = 0
        for number, sample in enumerate(samples_of_row):
            end = start + len(sample.ids)
            ids[index, start:end] = torch.tensor(sample.ids)
            positions[index, start:end] = torch.tensor(sample.positions)
            weights[index, start:end] = torch.tensor(sample.weights)
            weights[index, start] = 0.0  # nothing stands before it
            owner[index, start:end] = number
            start = end
    same = owner[:, :, None] == owner[:, None, :]
    past = torch.ones(row, row, dtype=torch.bool).tril()
    return Batch(ids, positions, weights, (same & past)[:, None])


def rate_at(step: int, steps: int) -> float:
    """The share of the full learning rate: a short warm-up, level, then straight down to nearly nothing."""
    left = (steps - step) / (steps * _DECAY_SHARE)
    return min(1.0, (step + 1) / _WARM_UP_STEPS, max(left, 0.02))


def weighted_loss(network: Network, batch: Batch) -> Tensor:
    """Mean cross-entropy of the next token, by weight."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(batch.ids, batch.positions, batch.mask)
    targets, weights = batch.ids[:, 1:].reshape(-1), batch.weights[:, 1:].reshape(-1)
    chosen = weights > 0
    foreseen = logits[:, :-1].reshape(-1, logits.shape[-1])[chosen].float()
    losses = functional.cross_entropy(foreseen, targets[chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights.sum()


def train(
    tokenizer: Tokenizer,
    *,
    steps: int,
    seed: int,
    on_step: Callable[[int, Network], None],
) -> Network:
    """Train a network from nothing; the same seed, steps and number of threads give the same network.

    `on_step` is called after each step with its number, from 1.
    """
    torch.manual_seed(seed)
    network = Network(Shape())
    matrices = [p for p in network.layers.parameters() if p.ndim == 2]
    others = [p for p in network.parameters() if all(p is not matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=_MATRIX_RATE, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=_OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    full_rates = (_MATRIX_RATE, _OTHER_RATE)
    begun = time.monotonic()
    average = 0.0
    for step, batch in zip(range(steps), batches(samples(tokenizer, seed)), strict=False):
        loss = weighted_loss(network, batch)
        loss.backward()
        for optimizer, full_rate in zip(optimizers, full_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full_rate * rate_at(step, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average = loss.item() if step == 0 else 0.95 * average + 0.05 * loss.item()
        if step % 20 == 0 or step + 1 == steps:
            print(f"step {step + 1:5} of {steps}  loss {average:.3f}  {time.monotonic() - begun:6.0f} s", flush=True)
        on_step(step + 1, network)
    return network
