"""The other nodes of the cluster: beats to each of them, a kept link to each, and what changes told to whoever cares.

Owns every connection that this node opens to others. What a beat says, and what becomes of news, is decided
elsewhere and passed in; who is up is decided by `Membership`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from node.errors import NodeError
from node.identity import IdentityError, Signed
from node.peers.book import AddressBook
from node.peers.caller import call_at
from node.peers.endpoints import Call, Caller
from node.peers.errors import CallRefused, PeerError, PeerUnreachable, RemovalTold
from node.peers.link import Link
from node.peers.membership import BEAT_S, Beat, BeatAnswer, Change, MemberRecord, Membership, WentDown, WentUp
from node.peers.pinning import pin
from node.peers.remote import Lane, RemoteNode
from node.waiting import set_within

if TYPE_CHECKING:
    import ssl

    from node.identity import Ledger, NodeId

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

BEAT_LIMIT_S = 1.0
CALL_LIMIT_S = 5.0
LOOK_S = 0.1
REMEMBER_S = 5.0
# Less than the other side's 300 s, so that no request is sent into a connection that is just being closed.
KEEP_IDLE_S = 240.0


class Exchange(Struct, frozen=True, kw_only=True):
    """Signed records of the ledger that the other side may lack, and the names of all that one has."""

    keys: list[bytes]
    records: list[Signed] = []


class Hello(Struct, frozen=True, kw_only=True):
    """Who a node is, for those who only know an address; the question is the asker's own."""

    record: MemberRecord


class Peers:
    """The other nodes, from the first `start` to `close`."""

    def __init__(
        self,
        membership: Membership,
        book: AddressBook,
        *,
        ledger: Ledger,
        context: Callable[[], ssl.SSLContext],
        compose: Callable[[], Beat],
        on_change: Callable[[Change], None],
    ) -> None:
        """Nothing is dialled before `start`.

        Args:
            ledger: exchanged with the others whenever theirs differs.
            context: a new TLS context that shows our certificate and accepts any member's.
            compose: our beat, now; its `ledger` and `leaving` are filled in here.
            on_change: told at once of everything in `membership.Change`; must not wait.
        """
        self.membership = membership
        self._book = book
        self._ledger = ledger
        self._context = context
        self._compose = compose
        self._on_change = on_change
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[NodeId | None, ssl.SSLContext] = {}
        self._links: dict[tuple[NodeId, Lane], asyncio.Task[Link]] = {}
        self._beating: dict[NodeId, asyncio.Task[None]] = {}
        self._due: dict[NodeId, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._working: dict[NodeId, str] = {}
        self._beat: tuple[float, bytes] | None = None
        self._leaving = False
        self._parting = False

    def start(self) -> None:
        """Begin to call the members that are known, those of the book included."""
        self._session = _new_session()
        now_s = time.monotonic()
        for record in self._book.read():
            if not self._ledger.is_node_revoked(record.node):
                self.membership.remember(record.node, name=record.name, addresses=record.addresses, now_s=now_s)
        for member in self.membership:
            self._call_on(member.node)
        self._own(self._look(), "look for silent members")
        self._own(self._remember(), "remember members")

    async def close(self) -> None:
        """Say goodbye to everybody and close every connection. Takes at most a second."""
        await self.say_goodbye()
        tasks = [*self._tasks, *self._beating.values(), *self._links.values()]
        for link in self._links.values():
            if link.done() and not link.cancelled() and link.exception() is None:
                link.result().lose("this node is leaving")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._write_book()
        if self._session is not None:
            await self._session.close()

    async def say_goodbye(self) -> None:
        """Tell everybody that this node is no longer there, until `dial_anew`. Takes at most a second."""
        self._leaving, self._beat = True, None
        up = [member.node for member in self.membership if member.state == "up"]
        await asyncio.gather(*(self._exchange_beats(node) for node in up), return_exceptions=True)

    def part(self) -> None:
        """This machine leaves the cluster for good: that others refuse it from now on says nothing new."""
        self._parting = True

    def dial_anew(self) -> None:
        """This machine has slept: trust no connection that was open before, and call everybody at once."""
        self._leaving, self._beat = False, None
        self._apply(self.membership.slept(time.monotonic()))
        if self._session is not None:
            self._own(self._session.close(), "close the connections from before the sleep")
            self._session = _new_session()
        for due in self._due.values():
            due.set()

    def calls(self) -> dict[str, Call]:
        """What this answers to other nodes, by the path's end."""
        return {
            "beat": Call(Beat, self._answer_beat),
            "hello": Call(Hello, self._answer_hello),
            "ledger": Call(Exchange, self._answer_exchange),
        }

    def node(self, node: NodeId) -> RemoteNode:
        """A member as somebody who serves."""
        return RemoteNode(node, self._link)

    def remember(self, record: MemberRecord) -> None:
        """Add a member, or addresses of one: from a join, from discovery, from the operator."""
        if self._ledger.is_node_revoked(record.node):
            return
        now_s = time.monotonic()
        self.membership.remember(record.node, name=record.name, addresses=record.addresses, now_s=now_s)
        if self.membership.get(record.node) is not None:
            self._call_on(record.node)

    async def greet(self, address: str) -> MemberRecord:
        """Find out which member is at host:port, and remember it. Raises PeerError."""
        hello = Hello(record=self.record())
        answer = await self._post(None, address, "hello", msgspec.msgpack.encode(hello), Hello, CALL_LIMIT_S)
        record = msgspec.structs.replace(answer.record, addresses=(address, *answer.record.addresses))
        self.remember(record)
        return record

    async def call(
        self, node: NodeId, name: str, request: Any, answer: type[Answer], *, limit_s: float = CALL_LIMIT_S
    ) -> Answer:
        """One of the other node's calls. Raises PeerError, and NodeError as it raised there."""
        return await self._ask(node, name, msgspec.msgpack.encode(request), answer, limit_s)

    def beat_now(self) -> None:
        """Something about us changed that the others should know at once."""
        self._beat = None
        for due in self._due.values():
            due.set()

    def forget(self, node: NodeId) -> None:
        """The member left or was removed: no more beats, no link."""
        self._apply(self.membership.forget(node))
        self._lose_links(node, "it left the cluster")
        if (beating := self._beating.pop(node, None)) is not None:
            beating.cancel()
        for table in (self._due, self._contexts, self._working):
            table.pop(node, None)

    def lose_links(self, reason: str) -> None:
        """Give up every link: whatever other nodes do for this one is lost."""
        for node in {node for node, _ in self._links}:
            self._lose_links(node, reason)

    def renew_contexts(self) -> None:
        """Our certificate was renewed: new connections are to show the new one."""
        self._contexts.clear()

    # Beats

    def _call_on(self, node: NodeId) -> None:
        if node not in self._beating and self._session is not None:
            self._due[node] = asyncio.Event()
            self._beating[node] = asyncio.create_task(self._keep_beating(node), name=f"beats to {node}")

    async def _keep_beating(self, node: NodeId) -> None:
        due = self._due[node]
        while True:
            due.clear()
            try:
                await self._exchange_beats(node)
                await self._keep_link(node)
            except RemovalTold as told:
                self._consider_removal(node, told)
            except (NodeError, IdentityError) as error:
                log.debug("no beat to node %s: %s", node, error)
            except Exception:  # the next beat may do better
                log.exception("beat to node %s failed", node)
            await set_within(due, self.membership.pause_s(node, time.monotonic()))

    def _consider_removal(self, node: NodeId, told: RemovalTold) -> None:
        """Whether it is so is for the root's signature to say; a member's mere word makes only that member lost."""
        if self._parting:
            return  # this machine has asked for it
        log.warning("%s", told)
        self._apply(self.membership.refused(node, told.reason, time.monotonic()))
        try:
            self._merge([told.proof])
        except IdentityError as error:
            log.warning("node %s has no proof of that: %s", node, error)

    async def _exchange_beats(self, node: NodeId) -> None:
        body = self._composed()
        sent_s, sent_unix_s = time.monotonic(), time.time()
        try:
            answer = await self._ask(node, "beat", body, BeatAnswer, BEAT_LIMIT_S)
        except PeerUnreachable as error:
            if error.refused:
                self._apply(self.membership.refused(node, str(error.reason), time.monotonic()))
            raise
        now_s = time.monotonic()
        if answer.node != node:
            raise PeerUnreachable(node, f"node {answer.node} is at its address")
        round_trip_s = now_s - sent_s
        self._apply(self.membership.answered(answer, sent_unix_s=sent_unix_s, round_trip_s=round_trip_s, now_s=now_s))
        if answer.ledger != self._fingerprint():
            await self._exchange_ledgers(node)

    async def _exchange_ledgers(self, node: NodeId) -> None:
        """Fetch what we lack; hand over what the other side lacks."""
        theirs = await self.call(node, "ledger", Exchange(keys=self._ledger.keys()), Exchange)
        self._merge(theirs.records)
        if lacking := self._ledger.records(unless=theirs.keys):
            await self.call(node, "ledger", Exchange(keys=self._ledger.keys(), records=lacking), Exchange)

    def _composed(self) -> bytes:
        """Our beat, the same for everybody and so encoded once for all of them."""
        now_s = time.monotonic()
        if self._beat is None or now_s - self._beat[0] > BEAT_S / 2:
            beat = self._compose()
            beat = msgspec.structs.replace(beat, ledger=self._fingerprint(), leaving=self._leaving)
            self._beat = now_s, msgspec.msgpack.encode(beat)
        return self._beat[1]

    async def _answer_beat(self, caller: Caller, beat: Beat) -> BeatAnswer:
        if caller.node != beat.report.node:
            raise CallRefused(403, "a node reports only itself")
        if caller.node not in self._beating:
            self.remember(MemberRecord(node=caller.node, name=beat.report.name, addresses=beat.addresses))
        self._apply(self.membership.heard(beat, time.monotonic()))
        if not beat.leaving and not self.membership.is_up(caller.node) and (due := self._due.get(caller.node)):
            due.set()  # it is back: no need to wait until it is called the next time
        ours = self._compose().report
        return BeatAnswer(
            node=ours.node,
            started_at=ours.started_at,
            unix_s=time.time(),
            ledger=self._fingerprint(),
        )

    async def _answer_hello(self, caller: Caller, hello: Hello) -> Hello:
        if caller.node != hello.record.node:
            raise CallRefused(403, "a node introduces only itself")
        self.remember(hello.record)
        return Hello(record=self.record())

    async def _answer_exchange(self, caller: Caller, theirs: Exchange) -> Exchange:
        self._merge(theirs.records)
        return Exchange(keys=self._ledger.keys(), records=self._ledger.records(unless=theirs.keys))

    def _merge(self, records: list[Signed]) -> None:
        """Take what another node knows, and act on it at once. Raises IdentityError."""
        if self._ledger.merge(records, now_s=time.time()):
            self.ledger_changed()

    def ledger_changed(self) -> None:
        """Records were added: tell everybody, and part from whoever was removed."""
        self.beat_now()
        for member in self.membership:
            if self._ledger.is_node_revoked(member.node):
                self.forget(member.node)

    def _fingerprint(self) -> bytes:
        return self._ledger.fingerprint(now_s=time.time())

    def record(self) -> MemberRecord:
        """This node, as the others remember it."""
        beat = self._compose()
        return MemberRecord(node=beat.report.node, name=beat.report.name, addresses=beat.addresses)

    def _apply(self, changes: list[Change]) -> None:
        for change in changes:
            if isinstance(change, WentDown):
                log.warning("node down node=%s reason=%s", change.node, change.reason)
                self._lose_links(change.node, change.reason)
            elif isinstance(change, WentUp):
                log.info("node up node=%s name=%s", change.report.node, change.report.name)
            self._on_change(change)

    # Connections

    async def _link(self, node: NodeId, lane: Lane) -> Link:
        """The open link of that kind, opened now if need be. Raises PeerUnreachable, PeerRefused."""
        key = (node, lane)
        opening = self._links.get(key)
        if opening is not None and opening.done() and not opening.cancelled() and opening.exception() is None:
            link = opening.result()
            if not link.is_lost:
                return link
            opening = None
        if opening is None or opening.done():
            if not self.membership.is_up(node):
                raise PeerUnreachable(node, self._why_down(node))
            opening = self._links[key] = asyncio.create_task(self._open_link(node), name=f"open link to {node}")
        await asyncio.wait({opening})  # not cancelled when we are: others wait for it too
        if opening.cancelled():  # the node was found to be down meanwhile
            raise PeerUnreachable(node, self._why_down(node))
        return opening.result()

    async def _open_link(self, node: NodeId) -> Link:
        assert self._session is not None
        error: PeerError = PeerUnreachable(node, "no address of it is known")
        for address in self._addresses(node):
            try:
                link = await Link.open(node, self._session, f"https://{address}", self._context_for(node))
            except PeerUnreachable as failure:
                error = failure
                continue
            link.lost.add_done_callback(lambda lost: self._link_lost(node, lost.result()))
            return link
        raise error

    async def _keep_link(self, node: NodeId) -> None:
        """Have the link open before the first request needs it."""
        if self.membership.is_up(node):
            await self._link(node, "prompt")

    def _link_lost(self, node: NodeId, reason: str) -> None:
        log.info("link lost node=%s reason=%s", node, reason)
        if (due := self._due.get(node)) is not None:
            due.set()  # the next beat says whether the node is there

    def _lose_links(self, node: NodeId, reason: str) -> None:
        for key in [key for key in self._links if key[0] == node]:
            opening = self._links.pop(key)
            if not opening.done():
                opening.cancel()
            elif not opening.cancelled() and opening.exception() is None:
                opening.result().lose(reason)

    async def _ask(self, node: NodeId, name: str, body: bytes, answer: type[Answer], limit_s: float) -> Answer:
        """A call at the address that worked last, else at the next one. Raises the first address's failure."""
        errors: list[PeerError] = []
        for address in self._addresses(node):
            try:
                found = await self._post(node, address, name, body, answer, limit_s)
            except PeerUnreachable as failure:
                errors.append(failure)
            else:
                self._working[node] = address
                return found
        raise errors[0] if errors else PeerUnreachable(node, "no address of it is known")

    async def _post(
        self, node: NodeId | None, address: str, name: str, body: bytes, answer: type[Answer], limit_s: float
    ) -> Answer:
        assert self._session is not None
        context = self._context_for(node)
        return await call_at(
            self._session, context, address, name, body, answer, shown=node or address, limit_s=limit_s
        )

    def _addresses(self, node: NodeId) -> list[str]:
        """Where to try, the address that worked last first."""
        member = self.membership.get(node)
        addresses = list(member.addresses) if member else []
        working = self._working.get(node)
        return [working, *(a for a in addresses if a != working)] if working in addresses else addresses

    def _context_for(self, node: NodeId | None) -> ssl.SSLContext:
        if (context := self._contexts.get(node)) is None:
            context = self._contexts[node] = pin(self._context(), node, self._ledger.is_node_revoked)
        return context

    def _why_down(self, node: NodeId) -> str:
        member = self.membership.get(node)
        return f"it is down ({member.down_reason})" if member else "it is no member"

    # Upkeep

    async def _look(self) -> None:
        while True:
            try:
                self._apply(self.membership.look(time.monotonic()))
            except Exception:  # silence has to be noticed all the same
                log.exception("looking for silent members failed")
            await asyncio.sleep(LOOK_S)

    async def _remember(self) -> None:
        while True:
            await asyncio.sleep(REMEMBER_S)
            await asyncio.to_thread(self._write_book)

    def _write_book(self) -> None:
        try:
            self._book.write(self.membership.records())
        except OSError as error:
            log.warning("members not remembered: %s", error)

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _new_session() -> aiohttp.ClientSession:
    # Names are resolved by the system each time: addresses of laptops change.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_IDLE_S, use_dns_cache=False)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"content-type": "application/vnd.msgpack"},
    )
