"""What checking a token costs: the first time a node sees it, and each time after. No network, no peer.

`python -m bench.tokens [--json FILE]`. The floor is one Ed25519 verification by OpenSSL; a general JWT library does the
same work with its own parsing around it. All three are measured by turns in one process.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import Goal, Row, machine, table, to_json
from bench.stats import median, percentile
from node.identity import ClusterRoot, IssuedToken, Ledger, TokenRefused, TokenVerifier, issue_token

LIMIT_US = 200.0
TOKENS = 200
ROUNDS = 9
CACHED_CHECKS = 20_000


def measure(rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Microseconds per check, one list of single checks (cached: of means per round) for each kind.

    Kinds: "floor" one bare signature; "uncached" a token never seen; "library" the same by PyJWT; "cached" one seen
    before; "forged" a bad signature, which is what a flood of guesses costs; "foreign" a token of another cluster.
    """
    import jwt

    now_s = time.time()
    root, other = ClusterRoot.create(now_s=now_s), ClusterRoot.create(now_s=now_s)
    ledger = Ledger(root.anchor, now_s=now_s)
    tokens = [_token(root, now_s, number) for number in range(TOKENS)]
    for number in range(1000):
        ledger.revoke_token(root, f"{number:016x}", now_s=now_s)
    foreign = _token(other, now_s, 0).text
    forged = [f"{token.text[:-40]}{'A' * 40}" for token in tokens]
    kinds = ("floor", "uncached", "library", "cached", "forged", "foreign")
    samples: dict[str, list[float]] = {kind: [] for kind in kinds}
    key, audience = root.anchor.root_key, root.anchor.cluster_id

    def decode(text: str) -> object:
        return jwt.decode(text, key, algorithms=["EdDSA"], audience=audience)

    signed = [token.text.rpartition(".")[0].encode() for token in tokens]
    signatures = [root.signing_key.sign(part) for part in signed]
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            verifier = TokenVerifier(root.anchor, ledger.is_token_revoked)
            for number, token in enumerate(tokens):
                _time(samples["floor"], key.verify, signatures[number], signed[number])
                _time(samples["uncached"], verifier.verify, token.text)
                _time(samples["library"], decode, token.text)
                _time(samples["forged"], _refused, verifier, forged[number])
                _time(samples["foreign"], _refused, verifier, foreign)
            samples["cached"].append(_mean_us(verifier, [token.text for token in tokens]))
    finally:
        gc.enable()
    return samples


def summarise(samples: dict[str, list[float]]) -> list[Row]:
    """Medians, and the 99th percentile beside that of the bare signature, which is what the machine itself adds."""
    middle = {kind: median(measured) for kind, measured in samples.items()}
    goal = Goal("value", "<=", LIMIT_US)
    return [
        _row("one Ed25519 verification", middle["floor"]),
        _row("token not seen before", middle["uncached"], middle["library"], "PyJWT", goal),
        _row("the same, p99", percentile(samples["uncached"], 0.99), percentile(samples["floor"], 0.99), "signature"),
        _row("token seen before", middle["cached"], goal=goal),
        _row("forged token", middle["forged"]),
        _row("token of another cluster", middle["foreign"]),
    ]


def _row(measure: str, ours: float, peer: float | None = None, peer_name: str = "", goal: Goal | None = None) -> Row:
    return Row(
        benchmark="tokens",
        model="",
        measure=measure,
        unit="us",
        ayni=ours,
        peer=peer,
        peer_name=peer_name,
        goal=goal,
    )


def _token(root: ClusterRoot, now_s: float, number: int) -> IssuedToken:
    return issue_token(
        root,
        f"client {number}",
        scopes=["infer"],
        lifetime_s=86400,
        now_s=now_s,
        models=["llama*", "qwen3:*"],
        requests_per_minute=60,
        tokens_per_minute=100_000,
        max_parallel=4,
    )


def _time(into: list[float], call: Callable[..., object], *arguments: object) -> None:
    began_ns = time.perf_counter_ns()
    call(*arguments)
    into.append((time.perf_counter_ns() - began_ns) / 1000)


def _refused(verifier: TokenVerifier, text: str) -> None:
    try:
        verifier.verify(text)
    except TokenRefused:
        return
    raise AssertionError("accepted")


def _mean_us(verifier: TokenVerifier, texts: list[str]) -> float:
    began_ns = time.perf_counter_ns()
    for number in range(CACHED_CHECKS):
        verifier.verify(texts[number % len(texts)])
    return (time.perf_counter_ns() - began_ns) / 1000 / CACHED_CHECKS


def main() -> int:
    """Returns the exit code: 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write all samples there")
    arguments = parser.parse_args()
    samples = measure()
    rows = summarise(samples)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(to_json(rows, machine(), {"tokens": samples}))
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
