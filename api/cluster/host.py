"""Whether this daemon is in a cluster, and the way in and out. Light: the cluster's parts are imported by need only."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import shutil
import socket
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from api.errors import Conflict

if TYPE_CHECKING:
    from api.cluster.member import ClusterNode
    from api.daemon import Daemon
    from node.devices import MachineSource
    from node.identity import Identity, IdentityStore
    from node.peers import MemberRecord
    from node.serves import OwnNode
    from node.settings import Settings

log = logging.getLogger(__name__)

# The port may still be held by the daemon that ran before.
RETRY_S = 3.0
# When the daemon of a machine alone is told to end, running streams may go on for so long.
ALONE_LIMIT_S = 5.0


class ClusterHost:
    """Puts a daemon into its cluster, and takes it out again. One change at a time."""

    def __init__(self, daemon: Daemon, own: OwnNode, devices: MachineSource) -> None:
        """`own`: this machine's part, which `daemon.node` is as long as it is alone."""
        self.member: ClusterNode | None = None
        self.trouble = ""
        self._daemon, self._devices, self._local = daemon, devices, own
        self._folder = daemon.settings.state_dir / "cluster"
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retiring: asyncio.Task[None] | None = None

    @property
    def belongs(self) -> bool:
        """Whether this machine belongs to a cluster, be it active now or not."""
        return self.member is not None or (self._folder / "identity").is_dir()

    def start(self) -> None:
        """Return to the cluster that this machine belongs to, if any."""
        if self.belongs:
            self._own(self._return())

    async def create(self, name: str) -> ClusterNode:
        """Make a cluster. Raises Conflict, IdentityError."""
        from api.cluster.lan_sockets import lan_hosts
        from node.identity import NodeNames

        async with self._changing:
            store = self._store()
            names = NodeNames.of(lan_hosts(self._daemon.settings))
            with self._lan_port() as sockets:
                identity = store.create_cluster(name, node_name=self._node_name(), names=names, now_s=time.time())
                return await self._begin(identity, sockets.take())

    async def join(self, line: str) -> ClusterNode:
        """Enter the cluster that the invitation is for. Raises Conflict, IdentityError, PeerError."""
        from api.cluster.lan_sockets import lan_hosts
        from node.identity import Invitation, NodeNames, Software
        from node.peers import join_cluster

        async with self._changing:
            invitation, settings = Invitation.parse(line), self._daemon.settings
            with self._lan_port() as sockets:
                identity, members = await join_cluster(
                    invitation,
                    self._store(),
                    node_name=self._node_name(),
                    names=NodeNames.of(lan_hosts(settings)),
                    software=Software(ayni=self._daemon.version, ray=self._ray_version()),
                )
                return await self._begin(identity, sockets.take(), members)

    async def leave(self, *, farewell: bool = True) -> bool:
        """Belong to no cluster any more. Raises Conflict: it belongs to none.

        Returns: whether the others, if there are any, were told and have revoked this machine's certificate.
        """
        async with self._changing:
            if not self.belongs:
                raise Conflict("this machine belongs to no cluster")
            member, self.member = self.member, None
            self._daemon.node, self._daemon.shelf.elsewhere = self._local, None
            if member is not None:
                told = farewell and await member.say_farewell()
                await member.close(drain_s=1.0)
            else:
                from node.peers import AddressBook

                told = not AddressBook(self._folder).read()
            self._store().forget()
            await asyncio.to_thread(self._forget_session)
            for name in ("members.json", "pins", "started", "generation"):
                (self._folder / name).unlink(missing_ok=True)
            if farewell:
                self.trouble = ""
            log.info("left the cluster")
            return told

    def retire(self) -> float:
        """The daemon is about to end: give its work away. Returns: for how long its clients' streams may go on."""
        if self.member is None:
            return ALONE_LIMIT_S
        limit_s = self._daemon.settings.drain_timeout_s
        self._retiring = asyncio.create_task(self.member.retire(limit_s), name="retire")
        return limit_s

    async def retired(self) -> None:
        """Wait until the clients of the LAN port have had their answers too, or the time for that is up."""
        if self._retiring is not None:
            await asyncio.wait({self._retiring})

    def give_up(self) -> None:
        """The time is up: what still runs ends with an error."""
        if self._retiring is not None:
            self._retiring.cancel()
        if self.member is not None:
            self.member.give_up()

    async def close(self) -> None:
        """The daemon ends; the membership stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.member is not None:
            member, self.member = self.member, None
            await member.close()

    async def _return(self) -> None:
        from node.identity import IdentityError

        while True:
            try:
                async with self._changing:
                    if self.belongs and self.member is None:
                        store = self._store()
                        store.clear_away()
                        identity = store.open(now_s=time.time())
                        identity.call_node(self._daemon.settings.node_name)
                        with self._lan_port() as sockets:
                            await self._begin(identity, sockets.take())
                self.trouble = ""
                return
            except (IdentityError, Conflict, OSError) as error:
                if str(error) != self.trouble:
                    log.error("not in the cluster yet: %s", error)
                self.trouble = str(error)
            except Exception as error:  # this machine alone serves on meanwhile
                log.exception("not in the cluster")
                self.trouble = str(error)
            await asyncio.sleep(RETRY_S)

    async def _begin(
        self, identity: Identity, sockets: Sequence[socket.socket], known: Sequence[MemberRecord] = ()
    ) -> ClusterNode:
        from api.cluster.member import ClusterNode

        member = ClusterNode(
            self._daemon,
            self._local,
            identity,
            self._folder,
            devices=self._devices,
            ray_version=self._ray_version(),
            on_removed=self._removed,
        )
        await member.start(sockets, known)
        self.member, self.trouble = member, ""
        self._daemon.node, self._daemon.shelf.elsewhere = member.turns, member.catalogue
        # As `api.serve` does at the start: a collection that walks all that was imported for this would stall streams.
        gc.collect()
        gc.freeze()
        return member

    def _removed(self, reason: str) -> None:
        log.warning("leaving the cluster: %s", reason)
        self.trouble = reason
        self._own(self.leave(farewell=False))

    def _forget_session(self) -> None:
        """Remove what Ray had, its token too; an earlier daemon may even have left it running."""
        from node.ray_session import leftover

        state = self._folder / "ray"
        leftover.sweep(state)
        shutil.rmtree(state, ignore_errors=True)

    def _store(self) -> IdentityStore:
        from node.identity import IdentityStore

        return IdentityStore(self._folder)

    def _lan_port(self) -> _LanPort:
        if self.member is not None:  # its port is taken, but that is not what is wrong
            from node.identity import AlreadyMember

            raise AlreadyMember(self.member.identity.cluster_name)
        return _LanPort(self._daemon.settings)

    def _node_name(self) -> str:
        return self._daemon.settings.node_name or socket.gethostname()

    def _ray_version(self) -> str:
        from node.ray_session.versions import ray_versions

        return ray_versions().ray if self._daemon.settings.ray == "auto" else ""

    def _own(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _LanPort:
    """The LAN port taken before anything is promised, and given back if it comes to nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sockets: list[socket.socket] = []

    def take(self) -> list[socket.socket]:
        """The sockets, for good."""
        sockets, self._sockets = self._sockets, []
        return sockets

    def __enter__(self) -> _LanPort:
        from api.cluster.lan_sockets import open_sockets

        try:
            self._sockets = open_sockets(self._settings)
        except OSError as error:
            setting = "lan_host" if error.errno == errno.EADDRNOTAVAIL else "lan_port"
            raise Conflict(
                f"the LAN port {self._settings.lan_port} can't be opened ({error.strerror}); see the setting {setting}"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()
