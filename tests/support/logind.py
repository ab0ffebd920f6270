"""A system bus of one's own with a systemd-logind on it, as far as sleep goes: inhibitors and PrepareForSleep."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

NAME, PATH, MANAGER = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"
LIMIT_S = 20.0
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/>
    <allow user="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


@contextlib.contextmanager
def system_bus(folder: Path) -> Iterator[str]:
    """A bus; its address is what DBUS_SYSTEM_BUS_ADDRESS is to say."""
    socket, config = folder / "bus", folder / "bus.conf"
    config.write_text(CONFIG.format(socket=socket))
    command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nosyslog", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "dbus-daemon did not start"
            yield f"unix:path={socket}"
        finally:
            process.terminate()


class Logind:
    """Runs in a thread from `start` to `stop`; `taken` counts inhibitors, `open` those that are not released."""

    def __init__(self, address: str, *, delay_s: float = 5.0) -> None:
        self.taken = 0
        self.words: list[str] = []
        self._address, self._delay_s = address, delay_s
        self._held: list[int] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._bus: MessageBus | None = None

    @property
    def open(self) -> int:
        """Inhibitors that hold a sleep up now."""
        readable, _, _ = select.select(self._held, [], [], 0)
        for pipe in readable:  # its other end is closed
            self._held.remove(pipe)
            os.close(pipe)
        return len(self._held)

    def start(self) -> Logind:
        self._thread.start()
        self._run(self._connect())
        return self

    def stop(self) -> None:
        """As when it is restarted: its name is free, all that it knew is gone."""
        assert self._bus is not None
        self._loop.call_soon_threadsafe(self._bus.disconnect)
        self._run(self._bus.wait_for_disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()
        for pipe in self._held:
            os.close(pipe)
        self._held.clear()

    def announce(self, *, sleep: bool) -> None:
        """The machine is about to sleep, or awake again."""
        assert self._bus is not None
        self._run(self._send(Message.new_signal(PATH, MANAGER, "PrepareForSleep", "b", [sleep])))

    async def _connect(self) -> None:
        self._bus = MessageBus(self._address, negotiate_unix_fd=True)
        await self._bus.connect()
        self._bus.add_message_handler(self._answer)
        await self._bus.request_name(NAME)

    def _answer(self, message: Message) -> Message | bool:
        if message.message_type is not MessageType.METHOD_CALL or message.path != PATH:
            return False
        if (message.interface, message.member) == ("org.freedesktop.DBus.Properties", "Get"):
            assert message.body == [MANAGER, "InhibitDelayMaxUSec"]
            return Message.new_method_return(message, "v", [Variant("t", int(self._delay_s * 1e6))])
        if message.member == "Inhibit":
            self.words = list(message.body)
            ours, theirs = os.pipe()
            self._held.append(ours)
            self.taken += 1
            self._handing_out = self._loop.create_task(self._hand_out(message, theirs))
            return True
        return False

    async def _hand_out(self, message: Message, pipe: int) -> None:
        await self._send(Message.new_method_return(message, "h", [0], [pipe]))
        os.close(pipe)

    async def _send(self, message: Message) -> None:
        assert self._bus is not None
        await self._bus.send(message)

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)
