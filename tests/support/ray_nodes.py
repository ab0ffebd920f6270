"""Machines of a real Ray cluster on 127.0.0.x, with real identities: start, stop, look inside, ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from coordinator.control import ControlPlane, ControlSettings
from coordinator.cost import RouteRequest
from coordinator.orders import Asked, Order, Placed
from node.identity import ClusterRoot, IdentityStore, Membership, NodeKeys, NodeNames, issue_certificate
from node.ray_session import Formation
from node.report import NodeReport, WeightsDigest

FIRST_PORT = 21_000
REPORT_S = 0.5
# On a quiet machine each of these takes 3-6 s.
LIMIT_S = 90.0


class RayNode:
    """One machine: its identity on disk, and its control plane."""

    def __init__(self, root: ClusterRoot, number: int, folder: Path) -> None:
        self.address = f"127.0.0.{number}"
        keys = NodeKeys.generate()
        now_s = time.time()
        certificate = issue_certificate(
            root,
            node=keys.node_id,
            tls_key=keys.tls.public_key(),
            names=NodeNames.of((self.address,)),
            cluster_name="home",
            now_s=now_s,
        )
        membership = Membership(root.anchor, root, keys, certificate, "home", ())
        identity = IdentityStore(folder).save(membership, node_name=f"n{number}", now_s=now_s)
        self.me = keys.node_id
        self.settings = ControlSettings(
            state=folder / "ray",
            certificate=identity.certificate_path,
            key=identity.key_path,
            authority=identity.ca_path,
            addresses=lambda: (self.address,),
            first_port=FIRST_PORT + (number - 11) * 512,
        )
        self.orders: list[Order] = []
        self.head_lost: list[str] = []
        self._report = NodeReport(node=self.me, name=f"n{number}", started_at=now_s, sequence=1)
        self._reporting: asyncio.Task[None] | None = None
        self.control = self._new_control()

    def _new_control(self) -> ControlPlane:
        return ControlPlane(
            self.me,
            self.settings,
            on_order=self.orders.append,
            on_head_lost=lambda _, reason: self.head_lost.append(reason),
        )

    @property
    def is_heard(self) -> bool:
        return not self.control.trouble

    def is_part_of(self, generation: int) -> bool:
        status = self.control.status
        return self.is_heard and status.phase == "up" and status.generation == generation

    def start(self) -> None:
        self.control = self._new_control()
        self.control.start()
        self._reporting = asyncio.create_task(self._keep_reporting())

    async def stop(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
        await self.control.close()

    async def _keep_reporting(self) -> None:
        while True:
            self._report = replace(self._report, sequence=self._report.sequence + 1)
            self.control.report(self._report)
            await asyncio.sleep(REPORT_S)

    async def processes(self) -> dict[str, int]:
        """This node's processes, by name ("raylet", "ray::NodeAgent"); one that is just ending has none any more."""
        session = self.control._keeper.session
        members = await session.members() if session is not None else {}  # type: ignore[attr-defined]
        return {Path(words[0]).name.strip(): pid for pid, words in members.items() if words}

    async def is_answered(self) -> bool:
        """Whether the coordinator answers a question of this node."""
        self.orders.clear()
        self.control.tell(Asked("ask", RouteRequest(WeightsDigest("sha256:00"))))
        await until(lambda: bool(self.orders), 10)
        return self.orders == [Placed("ask", None)]


class RayCluster:
    def __init__(self, root: ClusterRoot, nodes: list[RayNode]) -> None:
        self.root, self.nodes = root, nodes
        self.away: list[RayNode] = []
        self.formation: Formation | None = None

    async def form(self, generation: int, head: RayNode) -> None:
        self.formation = head.control.found(generation, head.address)
        for node in self.nodes:
            node.control.follow(self.formation)
        await self.until_whole(generation)

    async def until_whole(self, generation: int) -> None:
        await until(lambda: all(node.is_part_of(generation) for node in self.nodes))


async def until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.02)
