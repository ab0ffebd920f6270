"""A machine without a cluster: nothing of it is imported, opened or started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import asyncio, sys, pathlib, httpx
from api.app import create_app
from api.cluster.host import ClusterHost
from api.daemon import Daemon
from node.devices import DeviceSource
from node.settings import Settings
from node.supervisor import Supervisor
from registry import ModelStore

folder = pathlib.Path(sys.argv[1])
settings = Settings(models_dir=folder / "models", state_dir=folder)
daemon = Daemon(store=ModelStore(settings.models_dir, cache_dir=settings.cache_dir), node=Supervisor(settings),
                settings=settings, version="0")
daemon.cluster = ClusterHost(daemon, daemon.node, DeviceSource())

async def main():
    daemon.cluster.start()
    transport = httpx.ASGITransport(create_app(daemon))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        print((await client.get("/api/cluster")).text)
        print((await client.get("/api/cluster/nodes")).status_code)
        print([m["name"] for m in (await client.get("/api/tags")).json()["models"]])
    await daemon.cluster.close()

asyncio.run(main())
print(sorted({name for name in sys.modules if name.split(".")[0] in
    ("coordinator", "cryptography", "dbus_fast", "jwt", "aiohttp", "zeroconf", "ray")
    or name.startswith(("node.identity", "node.peers", "node.discovery", "node.ray_session", "node.agent", "node.sleep",
                        "api.lan"))
    or name in ("api.cluster.member", "api.cluster.actions", "api.cluster.views")}))
print(sorted(p.name for p in folder.iterdir()))
"""


def test_nothing_of_a_cluster_is_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[:4] == [
        '{"member":false,"active":false,"reason":""}',
        "409",
        "['demo:latest']",
        "[]",
    ]
    assert "cluster" not in done.stdout.splitlines()[4]
