"""Entry point of a runner process: `python -m node.runner --fd N`, N one end of a socket pair."""

from __future__ import annotations

import argparse

parser = argparse.ArgumentParser(prog="node.runner", description="Load one model and serve it on a socket.")
parser.add_argument("--fd", type=int, required=True, help="file descriptor of the socket to the daemon")

if __name__ == "__main__":
    from node.runner.process import main

    main(parser.parse_args().fd)
