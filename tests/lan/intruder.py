"""Whoever has a copy of a member's files, on a machine of its own: tries to enter the Ray cluster with them.

Arguments: the copied `cluster` folder, the control store's address and port. Prints how the session stands then.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from coordinator.control import ControlPlane, ControlSettings
from node.identity import IdentityStore, NodeId
from node.ray_session import Formation

LIMIT_S = 60.0


async def intrude(folder: Path, address: str, port: int) -> str:
    """What comes of it: "up", or why not."""
    identity = IdentityStore(folder).open(now_s=time.time())
    control = ControlPlane(
        identity.node_id,
        ControlSettings(
            state=folder / "intruder",
            certificate=identity.certificate_path,
            key=identity.key_path,
            authority=identity.ca_path,
            addresses=lambda: (),
        ),
        on_order=lambda _: None,
    )
    token = (folder / "ray" / "token").read_text()
    control.start()
    control.follow(Formation(generation=1, head=NodeId("0" * 16), address=address, port=port, token=token))
    try:
        async with asyncio.timeout(LIMIT_S):
            while control.status.phase != "up" and not control.status.reason:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.05)
        return control.status.reason or control.status.phase
    finally:
        await control.close()


if __name__ == "__main__":
    _, copied, host, number = sys.argv
    sys.stdout.write(asyncio.run(intrude(Path(copied), host, int(number))))
