"""Let things go wrong in a cluster of three, and see that nobody notices: `python -m tests.chaos --events 20`."""

from __future__ import annotations

import argparse
import shutil
import signal
import tempfile
from pathlib import Path

from tests.chaos.events import DEEDS
from tests.chaos.places import best_network
from tests.chaos.scenario import any_seed, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--events", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, default=None, help="choose the same events again")
    parser.add_argument(
        "--network", choices=("lan", "loopback"), help="where the machines stand (default: lan, if root)"
    )
    parser.add_argument("--only", nargs="+", choices=DEEDS, metavar="DEED", help=f"of these only: {', '.join(DEEDS)}")
    parser.add_argument("--keep", type=Path, help="keep the nodes' homes and logs in this folder")
    asked = parser.parse_args()
    # Whoever stops us wants it all cleared away, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed = any_seed() if asked.seed is None else asked.seed
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="ayni-chaos-"))
    try:
        report = run(
            folder,
            asked.network or best_network(),
            seed=seed,
            events=asked.events,
            only=asked.only,
            say=lambda line: print(line, flush=True),
        )
    finally:
        if not asked.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(*report.lines(), sep="\n")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
