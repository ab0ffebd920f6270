"""What the tests of real clusters ask for: a long answer that is always the same, and a model in one memory only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from tests.cluster.real_nodes import RealNode, until
from tests.cluster.streams import Stream

COUNT = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Count from 1 to 40."}],
    "think": False,
    "options": {"temperature": 0, "num_predict": 120},
}
# Makes of demo another model than what is in memory for it.
OWN_TEMPLATE = "{{ .System }} {{ .Prompt }}"


def stream(node: RealNode, *, at_chunk: int = 0, then: Callable[[], Any] | None = None) -> tuple[str, dict[str, Any]]:
    """The text of a streamed answer, and its last line; `then` happens after so many chunks."""
    text, last = "", {}
    with node.place.inside(), httpx.stream("POST", f"{node.url}/api/chat", json=COUNT, timeout=60) as response:
        assert response.status_code == 200
        for number, line in enumerate(response.iter_lines()):
            last = json.loads(line)
            assert "error" not in last, last
            text += last["message"]["content"]
            if then is not None and number == at_chunk:
                then()
    return text, last


def loaded_on(node: RealNode, model: str) -> set[str]:
    return {entry["node"] for entry in node.ask("GET", "/api/ps")["models"] if entry["name"] == model}


def running_on(place: RealNode, other: RealNode) -> tuple[Stream, Stream]:
    """Two answers on one node, one of them asked through the other node, which has the model in memory as well."""
    for node in (place, other):
        node.ask("POST", "/api/cluster/pins", {"model": "demo", "nodes": [node.name]})
    until(lambda: loaded_on(place, "demo:latest") >= {place.name, other.name}, what="loading")
    place.ask("DELETE", "/api/cluster/pins/demo")
    other.ask("POST", f"/api/cluster/nodes/{other.name}/drain", {"drain": True})
    until(lambda: place.states()[other.name] == "draining", what="the word that it takes nothing new")
    streams = Stream(place).await_text(), Stream(other).await_text()
    other.ask("POST", f"/api/cluster/nodes/{other.name}/drain", {"drain": False})
    until(lambda: place.states()[other.name] == "up", what="the word that it takes work")
    return streams


def unload_everywhere(place: RealNode, nodes: Sequence[RealNode]) -> None:
    """Have demo in no memory, as all of them see it."""
    place.ask("POST", "/api/chat", {"model": "demo", "keep_alive": 0})
    until(lambda: not any(loaded_on(node, "demo:latest") for node in nodes), what="unloading everywhere")


def only_loaded_on(place: RealNode, nodes: Sequence[RealNode]) -> None:
    """Have demo in the memory of one node only, as all of them see it."""
    unload_everywhere(place, nodes)
    # Where a request would have it loaded depends on what has run where before.
    place.ask("POST", "/api/cluster/pins", {"model": "demo", "nodes": [place.name]})
    until(lambda: all(loaded_on(node, "demo:latest") == {place.name} for node in nodes), what="loading")
    place.ask("DELETE", "/api/cluster/pins/demo")
