"""The child that speaks to Ray for the daemon: `python -m node.ray_session.rayctl ...`, JSON lines both ways.

A Ray driver ends its process when the control store is lost, and blocks for minutes when something is wrong; so it
lives here, for as long as actors are being placed, and is killed when it is late. What it places is detached and
outlives it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

NAMESPACE = "ayni"
COORDINATOR = "coordinator"
# The daemon's own limit is longer: this one only turns a silent wait into a reason.
PLACE_S = 12.0
REMOVE_S = 2.0


def agent_name(node: str, ray_node: str) -> str:
    """The name of the agent of a node: of this very raylet, for an older one's must not be taken for it."""
    return f"{agent_prefix(node)}{ray_node[:16]}"


def agent_prefix(node: str) -> str:
    """How the names of all agents of a node begin."""
    return f"agent-{node}-"


class RayDriver:
    """What can be asked."""

    def __init__(self, node: str, generation: int) -> None:
        import ray

        self._node, self._generation = node, generation
        self._ray_node: str = ray.get_runtime_context().get_node_id()

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes that the control store knows."""
        import ray

        return [
            {
                "ray_node": entry["NodeID"],
                "address": entry["NodeManagerAddress"],
                "alive": entry["Alive"],
                "node": entry.get("Labels", {}).get("nodeid", ""),
            }
            for entry in ray.nodes()  # type: ignore[no-untyped-call]
        ]

    def place_coordinator(self, actor: str, settings: dict[str, Any]) -> str:
        """Place a new coordinator on this raylet, the head's; its name.

        One that the control store remembers lived on an earlier raylet of the head. What it knew it learned from the
        agents, and the next one learns it again.
        """
        self._remove(COORDINATOR)
        return self._place(actor, COORDINATOR, {"generation": self._generation, "settings": settings})

    def place_agent(self, actor: str) -> str:
        """See that this raylet's agent lives, and those of this node's earlier raylets don't; its name."""
        import ray

        name = agent_name(self._node, self._ray_node)
        for other in ray.util.list_named_actors():
            if other.startswith(agent_prefix(self._node)) and other != name:
                self._remove(other)
        arguments = {"node": self._node, "generation": self._generation, "incarnation": self._ray_node}
        return self._place(actor, name, arguments)

    def check_raylet(self) -> None:
        """See that the raylet we speak to is this node's: another one's could be on the same machine."""
        mine = [entry["node"] for entry in self.nodes() if entry["ray_node"] == self._ray_node]
        if mine != [self._node]:
            raise RuntimeError(f"connected to the raylet of node {mine}")

    def _remove(self, name: str) -> None:
        """End an actor for good and wait until its name is free."""
        import ray

        deadline_s = time.monotonic() + REMOVE_S
        while time.monotonic() < deadline_s:
            try:
                ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
            except ValueError:  # there is none of that name
                return
            time.sleep(0.05)

    def _place(self, actor: str, name: str, arguments: dict[str, Any]) -> str:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        module, _, attribute = actor.partition(":")
        kind = getattr(importlib.import_module(module), attribute)
        handle = (
            ray.remote(kind)
            .options(
                name=name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(self._ray_node, soft=False),
            )
            .remote(**arguments)
        )
        ray.get(handle.ping.remote(), timeout=PLACE_S)
        return name


def main(words: list[str]) -> int:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(prog="rayctl")
    parser.add_argument("--address", required=True)
    parser.add_argument("--node-ip", required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--generation", required=True, type=int)
    asked = parser.parse_args(words)
    # Ray prints to stdout; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")

    import ray

    try:
        ray.init(
            address=asked.address,
            _node_ip_address=asked.node_ip,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        driver = RayDriver(asked.node, asked.generation)
        driver.check_raylet()
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        answer(id=0, error=_in_words(error))
        return 1
    answer(id=0, ok=True)
    known: dict[str, Callable[..., Any]] = {
        "nodes": driver.nodes,
        "place_coordinator": driver.place_coordinator,
        "place_agent": driver.place_agent,
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = known[request["do"]](**request.get("with", {}))
        except (ray.exceptions.RayError, ValueError, RuntimeError, ImportError) as error:
            answer(id=request["id"], error=_in_words(error))
        else:
            answer(id=request["id"], ok=result)
    return 0


def _in_words(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:400]


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # Not through Ray's exit handlers: with a control store that is gone they take 5 s.
    os._exit(status)
