"""`python -m bench.hop [--quick]`: what asking another node costs against asking the node that has the model.

Two daemons' LAN sides (real certificates, tokens, gate, API, routing, links) on 127.0.0.11 and .12, the model in the
second one's memory. A client over TLS with a token asks both by turns, 16 streams at a time. Measured: the time to
the first token and the processor time of both daemons for each streamed token, heartbeats included.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import psutil
import uvloop

from bench.hop_node import MODEL, Part
from bench.report import Goal, Row, table
from bench.stats import median, percentile
from node.identity import Identity, IdentityStore, Membership, NodeKeys, NodeNames, issue_certificate, issue_token
from node.peers import MemberRecord

ROOT = Path(__file__).resolve().parent.parent
ENTRY, SERVING = "127.0.0.11", "127.0.0.12"
STEP_S = 0.02
READY_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked."""

    streams: int = 16
    rounds: int = 6
    short_streams: int = 12
    short_tokens: int = 25
    long_tokens: int = 200


@dataclass(slots=True)
class Samples:
    """What one way of asking gave."""

    first_tokens_s: list[float] = field(default_factory=list)
    processor_us: list[float] = field(default_factory=list)
    tokens_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Daemon:
    """A running node of the benchmark."""

    url: str
    process: asyncio.subprocess.Process

    def processor_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


class Client:
    """A program on the LAN with a token; its connections are kept."""

    def __init__(self, session: aiohttp.ClientSession, context: ssl.SSLContext, token: str) -> None:
        self._session, self._context = session, context
        self._headers = {"authorization": f"Bearer {token}"}

    async def ask(self, daemon: Daemon, tokens: int) -> float:
        """One stream to its end. Returns: seconds to its first token."""
        body = {"model": MODEL, "prompt": "once", "raw": True, "options": {"num_predict": tokens}}
        sent_s = time.perf_counter()
        first_s, last = 0.0, b""
        async with self._session.post(
            f"{daemon.url}/api/generate", json=body, headers=self._headers, ssl=self._context
        ) as response:
            if response.status != 200:
                raise RuntimeError(await response.text())
            while data := await response.content.readany():
                first_s = first_s or time.perf_counter() - sent_s
                last = data
        if (count := msgspec.json.decode(last.rstrip().rpartition(b"\n")[2]).get("eval_count")) != tokens:
            raise RuntimeError(f"{count} tokens instead of {tokens}")
        return first_s


async def measure(plan: Plan) -> dict[str, Samples]:
    """Ask directly and over a hop, by turns. Raises RuntimeError: an answer was not what it should be."""
    samples = {"direct": Samples(), "hop": Samples()}
    async with two_nodes() as (entry, serving, context, token), _session() as session:
        client = Client(session, context, token)
        ways = {"direct": (serving, [serving]), "hop": (entry, [entry, serving])}
        for asked, _ in ways.values():
            await _together(client, asked, plan.streams, 4)
        gc.collect()
        gc.freeze()
        for _ in range(plan.rounds):
            for way, (asked, _) in ways.items():
                lines = (_in_line(client, asked, plan, number) for number in range(plan.streams))
                for line in await asyncio.gather(*lines):
                    samples[way].first_tokens_s += line
            for way, (asked, daemons) in ways.items():
                before_s, began_s = sum(daemon.processor_s() for daemon in daemons), time.perf_counter()
                await _together(client, asked, plan.streams, plan.long_tokens)
                took_s = time.perf_counter() - began_s
                used_s = sum(daemon.processor_s() for daemon in daemons) - before_s
                count = plan.streams * plan.long_tokens
                samples[way].processor_us.append(used_s / count * 1e6)
                samples[way].tokens_s.append(count / took_s)
    return samples


def summarise(samples: dict[str, Samples]) -> list[Row]:
    """Judge the samples. The hop's own cost is the difference; the goals bind it and the whole."""
    hop, direct = samples["hop"], samples["direct"]
    rows = []
    for share, name, bound in ((0.5, "median", 1.5), (0.99, "p99", 5.0)):
        value, peer = (percentile(way.first_tokens_s, share) * 1000 for way in (hop, direct))
        goal = Goal("difference", "<=", bound)
        rows.append(Row("hop", MODEL, f"first token, {name}", "ms", value, peer, "direct", goal))
    used, peer_used = median(hop.processor_us), median(direct.processor_us)
    goal = Goal("value", "<=", 250.0)
    rows.append(Row("hop", MODEL, "processor per token, both daemons", "us", used, peer_used, "direct", goal))
    rate, peer_rate = median(hop.tokens_s), median(direct.tokens_s)
    rows.append(Row("hop", MODEL, "tokens", "/s", rate, peer_rate, "direct", Goal("ratio", ">=", 0.97)))
    return rows


async def _together(client: Client, daemon: Daemon, streams: int, tokens: int) -> list[float]:
    return await asyncio.gather(*(client.ask(daemon, tokens) for _ in range(streams)))


async def _in_line(client: Client, daemon: Daemon, plan: Plan, number: int) -> list[float]:
    """One stream after the other, begun apart from those of the other lines: requests do not come in bursts."""
    await asyncio.sleep(number * plan.short_tokens * STEP_S / plan.streams)
    return [await client.ask(daemon, plan.short_tokens) for _ in range(plan.short_streams)]


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Daemon, Daemon, ssl.SSLContext, str]]:
    """A cluster of two: the one asked, and the one with the model. Ended with the block."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ayni-hop-")))
        now_s = time.time()
        first = IdentityStore(folder / "entry" / "cluster").create_cluster(
            "bench", node_name="entry", names=NodeNames.of((ENTRY,)), now_s=now_s
        )
        second = _join(first, folder / "serving" / "cluster", now_s)
        ports = {address: _free_port(address) for address in (ENTRY, SERVING)}
        records = {
            ENTRY: MemberRecord(node=first.node_id, name="entry", addresses=(f"{ENTRY}:{ports[ENTRY]}",)),
            SERVING: MemberRecord(node=second.node_id, name="serving", addresses=(f"{SERVING}:{ports[SERVING]}",)),
        }
        daemons = []
        for address, name in ((ENTRY, "entry"), (SERVING, "serving")):
            others = [record for place, record in records.items() if place != address]
            part = Part(str(folder / name), address, ports[address], others, address == SERVING, STEP_S)
            file = folder / f"{name}.json"
            file.write_bytes(msgspec.json.encode(part))
            daemons.append(await stack.enter_async_context(_daemon(file, f"https://{address}:{ports[address]}")))
        for daemon in daemons:
            assert daemon.process.stdout is not None
            async with asyncio.timeout(READY_LIMIT_S):
                if await daemon.process.stdout.readline() != b"ready\n":
                    raise RuntimeError("a node of the benchmark did not start")
        context = ssl.create_default_context(cadata=first.anchor.ca_pem.decode())
        token = issue_token(first.need_root(), "bench", scopes=["infer"], lifetime_s=3600, now_s=now_s).text
        yield daemons[0], daemons[1], context, token


@asynccontextmanager
async def _daemon(file: Path, url: str) -> AsyncIterator[Daemon]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.hop_node",
        str(file),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield Daemon(url, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _join(first: Identity, folder: Path, now_s: float) -> Identity:
    root, keys = first.need_root(), NodeKeys.generate()
    certificate = issue_certificate(
        root,
        node=keys.node_id,
        tls_key=keys.tls.public_key(),
        names=NodeNames.of((SERVING,)),
        cluster_name="bench",
        now_s=now_s,
    )
    membership = Membership(root.anchor, root, keys, certificate, "bench", tuple(first.ledger.records()))
    return IdentityStore(folder).save(membership, node_name=f"serving-{secrets.token_hex(2)}", now_s=now_s)


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def main(words: Sequence[str]) -> int:
    """Print the table; 1: a goal was missed."""
    plan = Plan(rounds=2, short_streams=4, long_tokens=100) if "--quick" in words else Plan()
    rows = summarise(uvloop.run(measure(plan)))
    print(table(rows))
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
