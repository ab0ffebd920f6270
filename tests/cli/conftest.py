from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.scripted_node import Command, Handler, Reply, ScriptedNode, environment


@pytest.fixture
def node() -> Iterator[ScriptedNode]:
    scripted = ScriptedNode()
    handler = type("BoundHandler", (Handler,), {"node": scripted})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    scripted.port = server.server_address[1]
    scripted.answers["GET /api/version"] = Reply({"version": "0.13.0", "ayni": "0.1.0"})
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield scripted
    server.shutdown()
    server.server_close()


@pytest.fixture
def ayni(tmp_path: Path) -> Command:
    home = tmp_path / "home"
    home.mkdir()
    return Command(home, environment(home))


@pytest.fixture
def with_node(ayni: Command, node: ScriptedNode) -> Command:
    ayni.environ["AYNI_HOST"] = node.address
    return ayni
