"""Train the built-in `demo` model from nothing and write it into the package.

Needs the `train` dependency group. On 2 cores it takes less than an hour:

    python scripts/train_demo_model.py
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import torch
from demo_model import corpus, export, training
from demo_model.chat import render
from demo_model.network import Network
from demo_model.tokenizer import learn_tokenizer

REPOSITORY = Path(__file__).resolve().parent.parent
BUILTIN_STORE = REPOSITORY / "registry" / "builtin"
_TOKENIZER_DIALOGUES = 12_000


def main() -> None:
    """Parse the command line, train, write."""
    parser = argparse.ArgumentParser(description="Train the built-in demo model.")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=11434)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", type=Path, default=BUILTIN_STORE, help="where to write the model")
    parser.add_argument("--snapshots", type=Path, help="a folder for a GGUF file every 100 steps")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    begun = time.monotonic()
    texts = map(render, itertools.islice(corpus.dialogues(arguments.seed), _TOKENIZER_DIALOGUES))
    tokenizer = learn_tokenizer(texts)

    def snapshot(step: int, network: Network) -> None:
        if arguments.snapshots and step % 100 == 0:
            partial = arguments.snapshots / "partial"
            export.write_gguf(network, tokenizer, partial)
            partial.rename(arguments.snapshots / f"demo-{step:05}.gguf")

    if arguments.snapshots:
        arguments.snapshots.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(arguments.snapshots / "tokenizer.json"))
    network = training.train(tokenizer, steps=arguments.steps, seed=arguments.seed, on_step=snapshot)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "demo.gguf"
        export.write_gguf(network, tokenizer, weights)
        export.write_store(weights, (REPOSITORY / "LICENSE").read_text(encoding="utf-8"), arguments.store)
        size = weights.stat().st_size
    print(f"wrote {size:,} bytes of weights to {arguments.store} after {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
