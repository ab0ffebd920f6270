"""`python -m bench.conversations_node POLICY`: a whole real daemon, which routes by another policy where that is asked.

POLICY "ayni" changes nothing. "least-loaded" takes, of the nodes that have the model in memory, the one with the
smallest share of its sequences taken; ties by chance. It knows the same reports, and what it has sent itself.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace

from api.serve import run
from bench.simulate import least_loaded
from cli.version import __version__
from coordinator import dispatch
from coordinator.cost import RouteRequest
from coordinator.route import Refusal, Route, choose_route
from coordinator.view import View
from node.settings import load_settings


def route_by_load(chance: random.Random) -> Callable[[View, RouteRequest], Route | Refusal]:
    """The peer's way, with the signature of `choose_route`, which decides where nobody has the model."""
    choose = least_loaded(chance)

    def route(view: View, request: RouteRequest) -> Route | Refusal:
        node = choose(view, request)
        if node is None or node in request.excluded:
            return choose_route(view, request)
        return choose_route(view, replace(request, only=frozenset({node})))

    return route


def main(policy: str) -> int:
    """Serve until told to stop."""
    if policy == "least-loaded":
        setattr(dispatch, "choose_route", route_by_load(random.Random(os.getpid())))  # noqa: B010 - mypy keeps functions
    return run(load_settings(), version=__version__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
