from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.binding import Context
from node.engine.embeddings import Embedder, EmbedTicket, group_inputs, shape_vector
from node.engine.loop import Send
from node.jobs import Embedded, Event
from tests.support.tiny_gguf import write_tiny_bert, write_tiny_llama

# Flash attention and the cache compute in half precision, and round by the shape of the batch.
ROUNDING = 4e-3
TEXTS = ["hello there", "a", "the quick brown fox jumps over the lazy dog", "hello there"]


@given(st.lists(st.integers(1, 40), max_size=20), st.integers(1, 32), st.integers(1, 4))
def test_inputs_share_batches_in_order(lengths: list[int], batch: int, sequences: int) -> None:
    groups = group_inputs(lengths, batch_tokens=batch, sequences=sequences)
    assert [i for group in groups for i in group] == list(range(len(lengths)))
    for group in groups:
        assert len(group) <= sequences
        assert len(group) == 1 or sum(lengths[i] for i in group) <= batch


def test_a_vector_is_cut_before_it_is_normalised() -> None:
    vector = np.array([3, 4, 12], np.float32)
    assert shape_vector(vector, dimensions=2, normalize=True).tolist() == pytest.approx([0.6, 0.8])
    assert shape_vector(vector, dimensions=None, normalize=False).tolist() == [3, 4, 12]
    assert shape_vector(np.zeros(3, np.float32), dimensions=None, normalize=True).tolist() == [0, 0, 0]


def putting_into(events: queue.SimpleQueue[Event]) -> Send:
    def send(sent: Sequence[Event]) -> None:
        for event in sent:
            events.put(event)

    return send


Embed = Callable[[EmbedTicket], np.ndarray]


@pytest.fixture
def start_embedder() -> Iterator[Callable[[Context], Embed]]:
    running: list[tuple[Embedder, threading.Thread]] = []

    def start(context: Context) -> Embed:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        embedder = Embedder(context, putting_into(events))
        thread = threading.Thread(target=embedder.run, daemon=True)
        thread.start()
        running.append((embedder, thread))

        def embed(ticket: EmbedTicket) -> np.ndarray:
            embedder.submit(ticket)
            event = events.get(timeout=10)
            assert isinstance(event, Embedded), event
            assert event.prompt_tokens == sum(map(len, ticket.inputs))
            return np.array([np.frombuffer(v, "<f4") for v in event.vectors])

        return embed

    yield start
    for embedder, thread in running:
        embedder.stop()
        thread.join(10)


def tokenized(context: Context, texts: list[str]) -> list[list[int]]:
    return [context.model.vocab.tokenize(t, add_special=True, parse_special=False) for t in texts]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_vectors_equal_those_of_llama_cpp_python(
    models: Path,
    load_context: Callable[..., Context],
    start_embedder: Callable[[Context], Embed],
    kind: str,
    pooling: str,
) -> None:
    from llama_cpp import Llama

    path = models / f"{kind}-embed.gguf"
    if not path.exists():
        write_tiny_bert(path, context=128) if kind == "bert" else write_tiny_llama(path, context=512)
    types = {"mean": 1, "cls": 2, "last": 3}
    reference = Llama(
        str(path), embedding=True, pooling_type=types[pooling], n_ctx=128, n_batch=128, n_ubatch=128, verbose=False
    )
    expected = np.array([reference.embed(t, normalize=True) for t in TEXTS])
    context = load_context(path, embedding=True, pooling=pooling, context_tokens=128)
    vectors = start_embedder(context)(EmbedTicket("e", tokenized(context, TEXTS)))
    assert vectors.shape == expected.shape
    np.testing.assert_allclose(vectors, expected, atol=ROUNDING)


def test_a_model_without_a_pooling_of_its_own_uses_the_last_token(
    tiny: Path, load_context: Callable[..., Context]
) -> None:
    assert load_context(tiny, embedding=True).pools_by == "last"


def test_the_models_own_pooling_is_used(models: Path, load_context: Callable[..., Context]) -> None:
    path = write_tiny_bert(models / "cls.gguf", pooling="cls")
    assert load_context(path, embedding=True, context_tokens=128).pools_by == "cls"


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_text_longer_than_a_batch_gives_the_same_vector(
    tiny: Path, load_context: Callable[..., Context], start_embedder: Callable[[Context], Embed], pooling: str
) -> None:
    ticket = EmbedTicket("e", [[*range(10, 210)], [*range(10, 60)]])
    whole, cut = (
        start_embedder(load_context(tiny, embedding=True, pooling=pooling, batch_tokens=batch))(ticket)
        for batch in (512, 64)
    )
    np.testing.assert_allclose(whole, cut, atol=ROUNDING)


def test_a_cancelled_job_is_not_answered(tiny: Path, load_context: Callable[..., Context]) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    embedder = Embedder(load_context(tiny, embedding=True), putting_into(events))
    for job in ("a", "b"):
        embedder.submit(EmbedTicket(job, [[5, 6, 7]]))
    embedder.cancel("a")
    thread = threading.Thread(target=embedder.run, daemon=True)
    thread.start()
    assert events.get(timeout=10).job == "b"
    embedder.stop()
    thread.join(10)
    assert events.empty()
