from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.scripted_node import ROOT, Command, Handler, Reply, ScriptedNode


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
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AYNI_", "OLLAMA_", "XDG_"))}
    # Port 1: nothing answers there, and no test can reach somebody's own node by mistake.
    own = {
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "AYNI_HOST": "127.0.0.1:1",
        "TERM": "xterm-256color",
        "COLUMNS": "80",
    }
    return Command(home, inherited | own | {"PROMPT_TOOLKIT_NO_CPR": "1"})


@pytest.fixture
def with_node(ayni: Command, node: ScriptedNode) -> Command:
    ayni.environ["AYNI_HOST"] = node.address
    return ayni
