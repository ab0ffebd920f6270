"""From a formation to a session that takes part in it: folders, ports, token, `ray start`, and our actors in place."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from node.ray_session import leftover
from node.ray_session.control import RayControl
from node.ray_session.errors import PortsTaken, RayCommandFailed, RayUnusable
from node.ray_session.formation import Formation
from node.ray_session.plan import Credentials, SessionPlan
from node.ray_session.ports import FIRST_PORT, RayPorts, choose_ports
from node.ray_session.session import RaySession
from node.ray_session.versions import ray_versions

if TYPE_CHECKING:
    from node.identity import NodeId

log = logging.getLogger(__name__)

# A head whose database is there is back in 3-4 s, or it won't be.
RECOVERY_LIMIT_S = 15.0
# How long a worker waits for a head that is still starting.
HEAD_PORT_LIMIT_S = 15.0
HEAD_PORT_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Actors:
    """The classes that are placed, as "module:name": what is above this package is named, not imported.

    Attributes:
        settings: handed to the coordinator; JSON values only.
    """

    agent: str
    coordinator: str
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayLauncher:
    """Starts this node's sessions.

    Attributes:
        state: folder of what outlives a session: the head's database, the token, the record of the last session.
        certificate, key, authority: files of this node's identity; the certificate names its current addresses.
        before: awaited with the plan when the session's folder is there and nothing runs yet.
        addresses: asked for those of this node, best first, at each start. A worker takes the one that it uses
            towards the head, if that is among them.
        first_port: where the blocks of ports begin that may be used.
    """

    me: NodeId
    state: Path
    certificate: Path
    key: Path
    authority: Path
    actors: Actors
    before: Callable[[SessionPlan], Awaitable[None]]
    addresses: Callable[[], Sequence[str]]
    first_port: int = FIRST_PORT
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    async def start(self, formation: Formation) -> RaySession:
        """Join, or found, the Ray cluster of this formation. Raises RaySessionError, OSError."""
        if not ray_versions().ray:
            raise RayUnusable("Ray isn't installed here")
        if formation.role_of(self.me) == "worker":
            await await_head(formation)
        # Should this be the last that happens, the next start (or daemon) finds the folder by its record.
        plan, recovers = await asyncio.to_thread(self._prepare, formation)
        await self.before(plan)
        session = await RaySession.start(plan, self.state, self.environ, limit_s=RECOVERY_LIMIT_S if recovers else None)
        try:
            async with RayControl.open(plan, self.environ) as control:
                if plan.role == "head":
                    await control.place_coordinator(self.actors.coordinator, self.actors.settings)
                await control.place_agent(self.actors.agent)
        except BaseException:
            await asyncio.shield(session.stop())
            raise
        return session

    def _prepare(self, formation: Formation) -> tuple[SessionPlan, bool]:
        """Everything that stands on disk before a start, and whether the head's database was there already."""
        from node.identity import write_private  # brings cryptography, which rayctl needs none of

        leftover.sweep(self.state)
        role = formation.role_of(self.me)
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        token = self.state / "token"
        write_private(token, formation.token.encode())
        # Two formations can have the same generation if two halves of a cluster made one each; never the same token.
        store = self.state / f"gcs-{formation.generation}-{hashlib.sha256(formation.token.encode()).hexdigest()[:8]}"
        for other in self.state.glob("gcs-*"):
            if other != store:
                shutil.rmtree(other, ignore_errors=True)
        recovers = role == "head" and store.is_dir()
        if role == "head":
            store.mkdir(exist_ok=True, mode=0o700)
        plan = SessionPlan(
            formation=formation,
            role=role,
            node=self.me,
            address=formation.address if role == "head" else self._address_towards(formation.address),
            ports=self._ports(formation, is_head=role == "head"),
            folder=leftover.make_session_folder(self.state),
            store=store,
            credentials=Credentials(self.certificate, self.key, self.authority, token),
        )
        return plan, recovers

    def _address_towards(self, head: str) -> str:
        own, towards = self.addresses(), address_towards(head)
        return towards if towards in own or not own else own[0]

    def _ports(self, formation: Formation, *, is_head: bool) -> RayPorts:
        if not is_head:
            return choose_ports(self.first_port)
        try:
            return choose_ports(formation.port, blocks=1)
        except PortsTaken:
            # The control store has to come back on the port that everybody knows; the others may move.
            return choose_ports(self.first_port, but_not=frozenset({formation.port}))


async def await_head(formation: Formation, limit_s: float = HEAD_PORT_LIMIT_S) -> None:
    """Wait until the control store listens: `ray start` alone would notice a late one only after seconds.

    Raises RayCommandFailed: it does not in time.
    """
    try:
        async with asyncio.timeout(limit_s):
            while True:
                try:
                    _, writer = await asyncio.open_connection(formation.address, formation.port)
                except OSError:
                    await asyncio.sleep(HEAD_PORT_RETRY_S)
                else:
                    writer.close()
                    return
    except TimeoutError:
        raise RayCommandFailed("ray start", f"the head does not answer at {formation.gcs_address}") from None


def address_towards(host: str) -> str:
    """This machine's address on the way to another one; nothing is sent. Raises OSError: there is no way."""
    family, kind, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
