"""systemd-logind, over the system bus: it announces a sleep, and holds it up while somebody has taken an inhibitor.

An inhibitor is an open file: closing it lets the machine sleep. logind waits for at most `InhibitDelayMaxUSec`, 5 s
unless configured otherwise. Anybody may take one of this kind; it keeps no lid open and no battery draining.

Source: https://systemd.io/INHIBITOR_LOCKS/ and org.freedesktop.login1(5).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

log = logging.getLogger(__name__)

NAME, PATH, INTERFACE = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
MATCHES = (
    f"type='signal',sender='{NAME}',path='{PATH}',interface='{INTERFACE}',member='PrepareForSleep'",
    f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{NAME}'",
)
SOCKET = Path("/var/run/dbus/system_bus_socket")
CALL_LIMIT_S = 5.0
RETRY_S = 10.0
# Of the time that logind waits, for closing the file and for logind to see it.
MARGIN_S = 0.5


def has_system_bus() -> bool:
    """Whether there is a bus on which logind could be."""
    return sys.platform == "linux" and ("DBUS_SYSTEM_BUS_ADDRESS" in os.environ or SOCKET.exists())


class Logind:
    """Knows of every sleep: `on_sleep` has so many seconds before the machine goes, `on_wake` comes afterwards."""

    def __init__(self, *, on_sleep: Callable[[float], Awaitable[None]], on_wake: Callable[[], None]) -> None:
        """Nothing is asked of the bus before `keep`."""
        self._on_sleep, self._on_wake = on_sleep, on_wake
        self._inhibitor: int | None = None
        self._limit_s = 0.0
        self._asleep = False

    async def keep(self) -> None:
        """Hold up every sleep for as long as `on_sleep` takes, for ever."""
        from dbus_fast import DBusFastError

        known = ""
        while True:
            try:
                await self._attend()
            except (DBusFastError, OSError, EOFError) as error:  # TimeoutError is an OSError
                if (trouble := str(error) or type(error).__name__) != known:
                    log.info("sleep of this machine is noticed only afterwards: %s", trouble)
                    known = trouble
            finally:
                self._release()
                self._wake()
            await asyncio.sleep(RETRY_S)

    async def _attend(self) -> None:
        """Take the inhibitor and act on what logind says, until the bus is lost."""
        from dbus_fast import BusType
        from dbus_fast.aio import MessageBus

        bus = MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True, auth_timeout=CALL_LIMIT_S)
        news: asyncio.Queue[Message | None] = asyncio.Queue()
        bus.add_message_handler(lambda message: _keep_signal(message, news))
        await bus.connect()
        lost: asyncio.Future[None] = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        lost.add_done_callback(lambda _: news.put_nowait(None))
        try:
            for rule in MATCHES:
                await _call(bus, BUS, BUS_PATH, BUS, "AddMatch", "s", rule)
            await self._inhibit(bus)
            log.info("holding up sleep for at most %.1f s to give work away", self._limit_s)
            while (message := await news.get()) is not None:
                if message.member == "NameOwnerChanged":
                    if message.body[2]:  # another logind, which knows nothing of our inhibitor
                        await self._inhibit(bus)
                elif message.body[0]:
                    await self._sleep()
                else:
                    await self._inhibit(bus)
                    self._wake()
            await lost
        finally:
            bus.disconnect()
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)

    async def _inhibit(self, bus: MessageBus) -> None:
        self._release()
        get = ("org.freedesktop.DBus.Properties", "Get", "ss", INTERFACE, "InhibitDelayMaxUSec")
        most = await _call(bus, NAME, PATH, *get)
        self._limit_s = max(MARGIN_S, most.body[0].value / 1e6 - MARGIN_S)
        words = ("sleep", "Ayni", "giving running answers to other machines", "delay")
        taken = await _call(bus, NAME, PATH, INTERFACE, "Inhibit", "ssss", *words)
        self._inhibitor = taken.unix_fds[taken.body[0]]
        os.set_inheritable(self._inhibitor, False)  # a runner that has it too would keep the machine awake

    async def _sleep(self) -> None:
        self._asleep = True
        try:
            async with asyncio.timeout(self._limit_s):
                await self._on_sleep(self._limit_s)
        except TimeoutError:
            log.warning("not everything could be given away before this machine sleeps")
        finally:
            self._release()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._on_wake()

    def _release(self) -> None:
        if self._inhibitor is not None:
            os.close(self._inhibitor)
            self._inhibitor = None


def _keep_signal(message: Message, news: asyncio.Queue[Message | None]) -> None:
    if message.member in ("PrepareForSleep", "NameOwnerChanged") and message.interface in (INTERFACE, BUS):
        news.put_nowait(message)


async def _call(
    bus: MessageBus, name: str, path: str, interface: str, member: str, signature: str, *words: Any
) -> Message:
    """One call of a method. Raises DBusError: the other side's refusal."""
    from dbus_fast import DBusError, Message, MessageType

    call = Message(
        destination=name, path=path, interface=interface, member=member, signature=signature, body=list(words)
    )
    async with asyncio.timeout(CALL_LIMIT_S):
        reply = await bus.call(call)
    if reply.message_type is MessageType.ERROR:
        raise DBusError(reply.error_name or "unknown error", str(reply.body[0]) if reply.body else "")
    return reply
