"""`python -m bench.conversations [--quick]`: conversations over three real nodes, beside least-loaded routing.

Three daemons with real engines on 127.0.0.11 to .13 hold the same model. People talk with it turn by turn, several at
the same time, each turn through a node taken by chance; some share a system prompt. The same conversations are held
with Ayni's routing and with least-loaded routing by turns, each time by nodes that have just been started. Measured:
the time to the first token, and the share of the prompts' tokens that the engines took from their caches.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import httpx

from bench.client import stream_chat, turn
from bench.models import FIFTEEN_MILLION, write_model
from bench.report import Goal, Row, table
from bench.servers import ayni_environment, free_port, running
from bench.stats import median, percentile
from cli.credential import credential
from node.setting_values import Address
from registry import ModelName, ModelStore, Recipe
from scripts.bootstrap import say

Policy: TypeAlias = Literal["ayni", "least-loaded"]

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "bench" / ".cache"
ADDRESSES = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
SHAPE = FIFTEEN_MILLION
MODEL = "measured"
PARALLEL = 4
READY_LIMIT_S = 60.0
POLL_S = 0.1
REQUEST_LIMIT_S = 30.0
SYSTEM_PROMPTS = 4
FIRST_SEED = 2_000_000  # apart from the seeds of other loads


@dataclass(frozen=True, slots=True)
class Plan:
    """Who asks how much: lengths in tokens, pauses between an answer and the next question in seconds (mean)."""

    rounds: int = 2
    conversations: int = 15
    turns: int = 8
    at_once: int = 6
    system_tokens: int = 400
    question_tokens: int = 150
    answer_tokens: int = 40
    pause_s: float = 1.0


@dataclass(slots=True)
class Samples:
    """What one policy gave: seconds to the first token, prompts' tokens, those of them that were cached."""

    first_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def cached_share(self) -> float:
        """How much of the prompts the engines did not have to read."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


async def measure(plan: Plan, model: Path) -> dict[Policy, Samples]:
    """Hold the conversations with each policy by turns. Raises BadAnswer, ServerFailed, httpx.HTTPError."""
    samples: dict[Policy, Samples] = {policy: Samples() for policy in get_args(Policy)}
    for number in range(plan.rounds):
        for policy, result in samples.items():
            say(f"conversations: round {number + 1} of {plan.rounds}, {policy} ...")
            async with three_nodes(policy, model) as ports:
                await _converse_all(plan, ports, number, result)
    return samples


async def _converse_all(plan: Plan, ports: Sequence[int], number: int, samples: Samples) -> None:
    """A round: `at_once` people, each with one conversation after the other."""
    waiting = list(range(plan.conversations))

    async def person() -> None:
        while waiting:
            seed = FIRST_SEED + 1000 * (number * plan.conversations + waiting.pop())
            await _converse(plan, ports, seed, samples)

    async with asyncio.TaskGroup() as group:
        for _ in range(plan.at_once):
            group.create_task(person())


async def _converse(plan: Plan, ports: Sequence[int], seed: int, samples: Samples) -> None:
    """The same questions, pauses and entry nodes for the same seed."""
    chance, words = random.Random(seed), SHAPE.words
    system = chance.randrange(SYSTEM_PROMPTS)
    messages = [turn("system", words.random_text(plan.system_tokens, FIRST_SEED - 1 - system))]
    for index in range(plan.turns):
        await asyncio.sleep(chance.expovariate(1 / plan.pause_s))
        length = chance.randint(plan.question_tokens // 2, plan.question_tokens * 3 // 2)
        messages.append(turn("user", words.random_text(length, seed + index)))
        trace = await stream_chat(chance.choice(ports), MODEL, messages, plan.answer_tokens)
        messages.append(turn("assistant", trace.text))
        samples.first_s.append(trace.first_token_s)
        samples.prompt_tokens += trace.prompt_tokens
        samples.cached_tokens += trace.cached_tokens


def summarise(samples: dict[Policy, Samples]) -> list[Row]:
    """Judge the samples: the goal binds the median."""
    ours, theirs = samples["ayni"], samples["least-loaded"]

    def row(measure: str, unit: str, value: float, peer: float, goal: Goal | None = None) -> Row:
        return Row("conversations", SHAPE.name, measure, unit, value, peer, "least-loaded", goal)

    count = f"{len(ours.first_s)} requests"
    goal = Goal("ratio", "<=", 0.6)
    return [
        row(f"first token, median of {count}", "ms", median(ours.first_s) * 1e3, median(theirs.first_s) * 1e3, goal),
        row("first token, mean", "ms", _mean(ours.first_s) * 1e3, _mean(theirs.first_s) * 1e3),
        row("first token, p99", "ms", percentile(ours.first_s, 0.99) * 1e3, percentile(theirs.first_s, 0.99) * 1e3),
        row("prompt tokens from a cache", "%", ours.cached_share * 100, theirs.cached_share * 100),
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@asynccontextmanager
async def three_nodes(policy: Policy, model: Path) -> AsyncIterator[list[int]]:
    """Three nodes in a cluster, the model in the memory of each. Yields their ports on loopback."""
    with tempfile.TemporaryDirectory(prefix="ayni-conversations-") as scratch:
        folder = Path(scratch)
        _store_model(folder / "models", model)
        async with AsyncExitStack() as stack:
            ports = [
                await stack.enter_async_context(_node(policy, folder, name, address))
                for name, address in zip("abc", ADDRESSES, strict=True)
            ]
            clients = [
                await stack.enter_async_context(_own_user(folder / name, port))
                for name, port in zip("abc", ports, strict=True)
            ]
            await _form(clients)
            yield ports


def _store_model(models_dir: Path, model: Path) -> None:
    """Put the model where all three look. One thread each: they share this machine's cores, real ones would not."""
    store = ModelStore(models_dir, cache_dir=models_dir.parent / "cache")
    try:
        store.create(ModelName.parse(MODEL), Recipe(source=(model,), parameters={"num_ctx": 4096, "num_thread": 1}))
    finally:
        store.close()


@asynccontextmanager
async def _node(policy: Policy, folder: Path, name: str, address: str) -> AsyncIterator[int]:
    home, port = folder / name, free_port()
    home.mkdir()
    environment = ayni_environment(
        home,
        port,
        AYNI_MODELS_DIR=str(folder / "models"),
        AYNI_NUM_PARALLEL=str(PARALLEL),
        AYNI_NODE_NAME=name,
        AYNI_LAN_HOST=address,
        AYNI_LAN_PORT=str(free_port(address)),
        AYNI_DISCOVERY="off",
        AYNI_RAY="off",
    )
    command = [sys.executable, "-P", "-m", "bench.conversations_node", policy]
    environment["PYTHONPATH"] = str(ROOT)
    async with running(
        command, name=f"node {name}", port=port, ready_path="/api/version", log=home / "log", environment=environment
    ):
        yield port


def _own_user(home: Path, port: int) -> httpx.AsyncClient:
    """A client that asks as the node's own user, who alone may change its cluster."""
    address = Address(port=port)
    headers = {"authorization": f"Bearer {credential(address, home / '.ayni')}"}
    return httpx.AsyncClient(base_url=address.url, headers=headers, timeout=REQUEST_LIMIT_S)


async def _form(nodes: Sequence[httpx.AsyncClient]) -> None:
    """Make one cluster of them, and pin the model on each."""
    first, *others = nodes

    async def post(node: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = (await node.post(f"/api/cluster{path}", json=body)).raise_for_status().json()
        assert isinstance(answer, dict)
        return answer

    async def all_know(is_so: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until each node says so of all three."""
        for node in nodes:
            while True:
                known = (await node.get("/api/cluster/nodes")).raise_for_status().json()["nodes"]
                if sum(map(is_so, known)) == len(nodes):
                    break
                await asyncio.sleep(POLL_S)

    await post(first, "", {"name": "bench"})
    line = (await post(first, "/invitations", {"uses": len(others)}))["invitation"]
    for other in others:
        await post(other, "/join", {"invitation": line})
    async with asyncio.timeout(READY_LIMIT_S):
        await all_know(lambda node: node["state"] == "up")
        await post(first, "/pins", {"model": MODEL, "nodes": ["a", "b", "c"]})
        await all_know(lambda node: any(model["pinned"] for model in node["resident"]))


def main(words: Sequence[str]) -> int:
    """Print the table; 1: the goal was missed."""
    plan = Plan(rounds=1, conversations=6, turns=3) if "--quick" in words else Plan()
    rows = summarise(asyncio.run(measure(plan, write_model(SHAPE, CACHE))))
    print(table(rows))
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
