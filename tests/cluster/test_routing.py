"""Any node answers for the whole cluster, and goes on when the one that serves is gone."""

from __future__ import annotations

import httpx
import pytest

from tests.cluster.asking import OWN_TEMPLATE, loaded_on, only_loaded_on, stream, unload_everywhere
from tests.cluster.real_nodes import RealNode, await_all_up, until
from tests.cluster.streams import LONG, Stream


def test_every_node_sees_all_of_them(cluster: list[RealNode]) -> None:
    for node in cluster:
        nodes = node.nodes()
        assert set(nodes) == {"a", "b", "c"}
        assert [name for name, entry in nodes.items() if entry["me"]] == [node.name]
        assert all("demo:latest" in entry["models"] for entry in nodes.values())
        status = node.ask("GET", "/api/cluster")
        assert (status["name"], status["nodes"], status["nodes_up"]) == ("home", 3, 3)


def test_a_request_goes_where_the_model_is_loaded(cluster: list[RealNode]) -> None:
    a, b, c = cluster
    only_loaded_on(a, cluster)
    explained = c.ask("POST", "/api/cluster/explain", {"model": "demo"})
    assert explained["node"] == "a"
    assert explained["lines"][0].startswith("a wins: ")
    short = {"model": "demo", "prompt": "hi", "stream": False, "options": {"num_predict": 2}}
    answered = httpx.post(f"{c.url}/api/generate", json=short, timeout=30)
    assert answered.headers["x-ayni-route"].startswith(f"{c.nodes()['a']['id']}; resident; total=")
    text, last = stream(c)
    assert text.startswith("1, 2, 3")
    assert last["done_reason"] in {"stop", "length"}
    assert loaded_on(b, "demo:latest") == {"a"}


def test_a_model_that_only_another_node_stores_is_served_and_listed_everywhere(cluster: list[RealNode]) -> None:
    a, b, c = cluster
    own = {"system": "Be kind.", "template": OWN_TEMPLATE}
    a.ask("POST", "/api/create", {"model": "special", "from": "demo", "stream": False} | own)
    until(lambda: all("special:latest" in n.nodes()["a"]["models"] for n in (b, c)), what="the report of the model")
    names = {entry["name"] for entry in b.ask("GET", "/api/tags")["models"]}
    assert names == {"demo:latest", "special:latest"}
    listed = {entry["id"] for entry in httpx.get(f"{c.url}/v1/models", timeout=10).json()["data"]}
    assert listed == names
    assert b.ask("POST", "/api/show", {"model": "special"})["system"] == "Be kind."
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    answer = b.ask("POST", "/v1/chat/completions", {"model": "special"} | body)
    assert answer["usage"]["completion_tokens"] > 0
    assert loaded_on(c, "special:latest") == {"a"}
    a.ask("DELETE", "/api/delete", {"model": "special"})
    until(lambda: "special:latest" not in b.nodes()["a"]["models"], what="the report that it is gone")
    assert httpx.post(f"{b.url}/api/show", json={"model": "special"}, timeout=10).status_code == 404


def test_models_that_differ_in_defaults_share_what_is_in_memory_on_any_node(cluster: list[RealNode]) -> None:
    a, b, c = cluster
    only_loaded_on(b, cluster)
    a.ask("POST", "/api/create", {"model": "kind", "from": "demo", "system": "Be kind.", "stream": False})
    until(lambda: "kind:latest" in c.nodes()["a"]["models"], what="the report of the model")
    body = {"model": "kind", "prompt": "hi", "stream": False, "options": {"num_predict": 2}}
    for node in cluster:
        answered = httpx.post(f"{node.url}/api/generate", json=body, timeout=30)
        assert answered.status_code == 200
        assert answered.headers["x-ayni-route"].startswith(f"{c.nodes()['b']['id']}; resident; total=")
    loaded = {(entry["node"], entry["name"]) for entry in a.ask("GET", "/api/ps")["models"]}
    assert loaded == {("b", "demo:latest")}
    a.ask("DELETE", "/api/delete", {"model": "kind"})


def test_a_drained_node_gets_no_new_work(cluster: list[RealNode]) -> None:
    a, _, c = cluster
    only_loaded_on(a, cluster)
    c.ask("POST", "/api/cluster/nodes/a/drain", {"drain": True})
    until(lambda: c.states()["a"] == "draining")
    assert c.ask("POST", "/api/cluster/explain", {"model": "demo"})["node"] != "a"
    c.ask("POST", "/api/cluster/nodes/a/drain", {"drain": False})
    until(lambda: c.states()["a"] == "up")


def test_a_pinned_model_is_loaded_where_it_is_pinned_and_stays(cluster: list[RealNode]) -> None:
    a, b, _ = cluster
    assert a.ask("POST", "/api/cluster/pins", {"model": "demo", "nodes": ["b"]}) == {
        "model": "demo:latest",
        "nodes": ["b"],
    }
    until(lambda: any(m["pinned"] for m in a.nodes()["b"]["resident"]), what="the pinned model's load")
    b.ask("POST", "/api/chat", {"model": "demo", "keep_alive": "1ms", "options": {"num_predict": 1}, "stream": False})
    assert [entry["expires_at"][:4] for entry in b.ask("GET", "/api/ps")["models"] if entry["node"] == "b"] == ["2318"]
    assert set(a.ask("DELETE", "/api/cluster/pins/demo")["nodes"]) == {"a", "b", "c"}
    until(lambda: not any(m["pinned"] for m in a.nodes()["b"]["resident"]), what="its release")
    assert b.ask("GET", "/api/cluster")["state"] == "up"


def test_a_pinned_model_is_loaded_as_its_own_parameters_want_it(cluster: list[RealNode]) -> None:
    a = cluster[0]
    wide = {"model": "wide", "from": "demo", "template": OWN_TEMPLATE, "parameters": {"num_ctx": 1536}}
    a.ask("POST", "/api/create", wide | {"stream": False})
    a.ask("POST", "/api/cluster/pins", {"model": "wide", "nodes": ["a"]})

    def contexts() -> set[int]:
        return {m["context_tokens"] for m in a.nodes()["a"]["resident"] if m["name"] == "wide:latest"}

    until(contexts, what="the pinned model's load")
    assert contexts() == {1536}
    a.ask("DELETE", "/api/cluster/pins/wide")
    a.ask("DELETE", "/api/delete", {"model": "wide"})


def test_a_larger_context_is_waited_for_where_a_smaller_one_is_in_use(cluster: list[RealNode]) -> None:
    a, *others = cluster
    unload_everywhere(a, cluster)
    for node in others:
        node.ask("POST", f"/api/cluster/nodes/{node.name}/drain", {"drain": True})
    until(lambda: all(a.states()[node.name] == "draining" for node in others), what="the drain")
    try:
        small = Stream(a, numbers=150, options=LONG["options"] | {"num_ctx": 1024}).await_text()
        options = {"num_ctx": 2048, "num_predict": 2}
        answer = a.ask("POST", "/api/generate", {"model": "demo", "prompt": "hi", "stream": False, "options": options})
        assert answer["done"] is True
        small.whole()

        def contexts() -> list[int]:
            return [model["context_tokens"] for model in a.nodes()["a"]["resident"]]

        until(lambda: contexts() == [2048], what="the word of the larger one in the smaller one's place")
    finally:
        for node in others:
            node.ask("POST", f"/api/cluster/nodes/{node.name}/drain", {"drain": False})
        await_all_up(cluster)


def test_a_conversation_returns_to_the_node_that_has_it_in_its_cache(cluster: list[RealNode]) -> None:
    a, _, c = cluster
    a.ask("POST", "/api/cluster/pins", {"model": "demo", "nodes": ["a", "b"]})
    until(lambda: all(loaded_on(node, "demo:latest") >= {"a", "b"} for node in cluster), what="the pinned model's load")
    question = {"role": "user", "content": "Repeat after me: " + "one two three four five six seven " * 8}
    body = {"model": "demo", "messages": [question], "max_tokens": 8, "temperature": 0}
    first = httpx.post(f"{c.url}/v1/chat/completions", json=body, timeout=30)
    served = first.headers["x-ayni-route"].partition(";")[0]
    body["messages"] += [first.json()["choices"][0]["message"], {"role": "user", "content": "Go on."}]

    def knows(node: RealNode) -> bool:
        (there,) = (entry for entry in node.nodes().values() if entry["id"] == served)
        return bool(there["resident"][0]["cached_prefixes"])

    until(lambda: all(map(knows, cluster)), what="the report of what is cached")
    for node in cluster:
        answer = httpx.post(f"{node.url}/v1/chat/completions", json=body, timeout=30)
        route = answer.headers["x-ayni-route"]
        assert route.startswith(served), route
        assert "; cached=" in route
        assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 50
    a.ask("DELETE", "/api/cluster/pins/demo")


@pytest.mark.timeout(90)
def test_a_stream_goes_on_byte_for_byte_when_its_daemon_is_killed_and_the_node_comes_back(
    cluster: list[RealNode],
) -> None:
    a, _, c = cluster
    only_loaded_on(a, cluster)
    a.ask("POST", "/api/create", {"model": "only-here", "from": "demo", "template": OWN_TEMPLATE, "stream": False})
    until(lambda: "only-here:latest" in c.nodes()["a"]["models"], what="the report of the model")
    undisturbed, _ = stream(c)
    resumed, last = stream(c, at_chunk=8, then=a.kill)
    assert resumed == undisturbed
    assert last["done"] is True
    assert last["ayni"]["resumed"] == 1
    assert c.states()["a"] == "lost"
    assert "stream goes on" in c.log
    gone = httpx.post(f"{c.url}/api/generate", json={"model": "only-here"}, timeout=10)
    assert gone.status_code == 503
    assert "model 'only-here:latest' is stored only on a, which can't be reached" in gone.json()["error"]
    a.start()
    await_all_up(cluster)
    assert c.ask("POST", "/api/generate", {"model": "only-here"})["done"] is True
    a.ask("DELETE", "/api/delete", {"model": "only-here"})


def test_a_node_that_is_told_to_stop_hands_its_streams_on(cluster: list[RealNode]) -> None:
    a, _, c = cluster
    only_loaded_on(a, cluster)
    assert a.process is not None
    undisturbed, _ = stream(c)
    resumed, _ = stream(c, at_chunk=8, then=a.process.terminate)
    assert resumed == undisturbed
    assert a.process.wait(25) == 0
    a.start()
    await_all_up(cluster)
