"""Embeddings: many texts per decode, pooled by llama.cpp, normalised. Runs in a thread of its own, like `Engine`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.engine.binding import Batch, Context
from node.engine.errors import DecodeError
from node.engine.mailbox import Mailbox
from node.jobs import Embedded, Event, Failed

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbedTicket:
    """Tokenised inputs, each of at least one token and at most the context's."""

    job: str
    inputs: list[list[int]]
    dimensions: int | None = None
    normalize: bool = True


@dataclass(frozen=True, slots=True)
class _Cancel:
    job: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


def shape_vector(vector: Vector, *, dimensions: int | None, normalize: bool) -> Vector:
    """Cut a vector to `dimensions` and give it length 1 (a zero vector stays zero)."""
    cut = vector[:dimensions] if dimensions else vector
    if normalize and (length := float(np.linalg.norm(cut))) > 0.0:
        cut = cut / np.float32(length)
    return np.ascontiguousarray(cut, dtype="<f4")


def group_inputs(lengths: Sequence[int], *, batch_tokens: int, sequences: int) -> list[list[int]]:
    """Indices of inputs evaluated together: as many as fit, in order. A longer input than a batch is alone."""
    groups: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if not groups or length > room or len(groups[-1]) == sequences:
            groups.append([])
            room = batch_tokens
        groups[-1].append(index)
        room -= length
    return groups


class Embedder:
    """Embeds the inputs of one job after the other. `submit`, `cancel` and `stop` may be called from any thread."""

    def __init__(self, context: Context, send: Callable[[Sequence[Event]], None]) -> None:
        self._context = context
        self._send = send
        self._batch = Batch(context.batch_tokens)
        self._mailbox: Mailbox[EmbedTicket | _Cancel | _Stop] = Mailbox()
        self._waiting: deque[EmbedTicket] = deque()
        self._cancelled: str | None = None
        self._stopping = False

    def submit(self, ticket: EmbedTicket) -> None:
        """Queue a job; one event follows through `send`."""
        self._mailbox.put(ticket)

    def cancel(self, job: str) -> None:
        """Forget a job; a running one stops after its current batch."""
        self._mailbox.put(_Cancel(job))

    def stop(self) -> None:
        """Make `run` return after the running batch."""
        self._mailbox.put(_Stop())

    def run(self) -> None:
        """Serve until `stop`."""
        while True:
            self._read_mail(wait_s=0.0 if self._waiting else None)
            if self._stopping:
                return
            if self._waiting and (event := self._embed(self._waiting.popleft())):
                self._send([event])

    def _read_mail(self, *, wait_s: float | None) -> None:
        for message in self._mailbox.take(wait_s=wait_s):
            if isinstance(message, EmbedTicket):
                self._waiting.append(message)
            elif isinstance(message, _Cancel):
                self._waiting = deque(t for t in self._waiting if t.job != message.job)
                self._cancelled = message.job
            else:
                self._stopping = True

    def _embed(self, ticket: EmbedTicket) -> Event | None:
        """None: it was cancelled."""
        started_ns = time.monotonic_ns()
        vectors: list[Vector] = []
        try:
            for group in group_inputs(
                [len(i) for i in ticket.inputs],
                batch_tokens=self._context.batch_tokens,
                sequences=self._context.sequences,
            ):
                vectors += self._evaluate([ticket.inputs[i] for i in group])
                self._read_mail(wait_s=0.0)
                if self._stopping or self._cancelled == ticket.job:
                    return None
        except DecodeError as error:
            return Failed(job=ticket.job, kind="internal", message=str(error))
        shaped = [shape_vector(v, dimensions=ticket.dimensions, normalize=ticket.normalize) for v in vectors]
        return Embedded(
            job=ticket.job,
            vectors=tuple(v.tobytes() for v in shaped),
            prompt_tokens=sum(map(len, ticket.inputs)),
            compute_ns=time.monotonic_ns() - started_ns,
        )

    def _evaluate(self, inputs: list[list[int]]) -> list[Vector]:
        """Pooled outputs of inputs that share one batch, or of one long input in several."""
        self._context.clear()
        if len(inputs) == 1:
            return [self._evaluate_long(inputs[0])]
        self._batch.clear()
        for sequence, tokens in enumerate(inputs):
            self._batch.add(sequence, tokens, 0, output=True)
        self._decode()
        return [self._pooled(sequence) for sequence in range(len(inputs))]

    def _evaluate_long(self, tokens: list[int]) -> Vector:
        """Evaluate a text of any length in chunks (one, for a bidirectional model: its batch holds a context).

        llama.cpp pools each chunk alone: the mean of means weighted by length is the mean; the last token's
        vector is that of the last chunk, the first token's that of the first.
        """
        size = self._context.batch_tokens
        parts: list[tuple[int, Vector]] = []
        for start in range(0, len(tokens), size):
            chunk = tokens[start : start + size]
            self._batch.clear()
            self._batch.add(0, chunk, start, output=True)
            self._decode()
            parts.append((len(chunk), self._pooled(0)))
        if self._context.pools_by == "mean":
            total = sum(count for count, _ in parts)
            weighted = np.stack([v * np.float32(count / total) for count, v in parts])
            mean: Vector = weighted.sum(axis=0)
            return mean
        return parts[0][1] if self._context.pools_by == "cls" else parts[-1][1]

    def _decode(self) -> None:
        self._batch.want_all()
        self._context.forget_abort()
        code = self._context.decode(self._batch)
        if code != 0:
            raise DecodeError(code)

    def _pooled(self, sequence: int) -> Vector:
        return self._context.embedding(sequence)
