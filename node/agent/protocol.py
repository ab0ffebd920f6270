"""What the daemon and its node's agent say to each other: length-prefixed msgpack frames on a unix socket.

What is said *through* them, between daemons and the coordinator, is bytes to both: reports, events and actions are
`coordinator`'s business.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from node.identity import NodeId
else:
    NodeId = str  # msgspec reads the annotations; the agent has no use for cryptography

HEADER_BYTES = 4
# A report with hundreds of models and their prefixes is some hundred KiB.
MAX_FRAME_BYTES = 16 << 20


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """Agent to daemon, first: who it is. `incarnation`: the raylet it lives on."""

    node: NodeId
    generation: int
    incarnation: str
    pid: int


class Act(Struct, frozen=True, kw_only=True, tag="act"):
    """Agent to daemon: what the coordinator wants done, in order."""

    actions: tuple[bytes, ...]


class Reach(Struct, frozen=True, kw_only=True, tag="reach"):
    """Agent to daemon: whether the coordinator hears us, and if not, why."""

    coordinator: bool
    reason: str = ""


class Welcome(Struct, frozen=True, kw_only=True, tag="welcome"):
    """Daemon to agent: the hello is accepted."""


class Leave(Struct, frozen=True, kw_only=True, tag="leave"):
    """Daemon to agent: it is stale (or somebody else's) and has to end."""

    reason: str


class Report(Struct, frozen=True, kw_only=True, tag="report"):
    """Daemon to agent: the node's newest report; one that was not passed on yet is replaced by it."""

    body: bytes


class Tell(Struct, frozen=True, kw_only=True, tag="tell"):
    """Daemon to agent: an event for the coordinator; all are passed on, in order."""

    event: bytes


FromAgent: TypeAlias = Hello | Act | Reach
FromDaemon: TypeAlias = Welcome | Leave | Report | Tell

_encode = msgspec.msgpack.Encoder().encode
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)
_from_daemon: msgspec.msgpack.Decoder[FromDaemon] = msgspec.msgpack.Decoder(FromDaemon)


def frame(message: FromAgent | FromDaemon) -> bytes:
    """A message with its length before it."""
    body = _encode(message)
    return len(body).to_bytes(HEADER_BYTES, "little") + body


async def read_from_agent(reader: asyncio.StreamReader) -> FromAgent:
    """The next message. Raises IncompleteReadError, OSError: the connection ended; DECODE_ERRORS: nonsense."""
    return _from_agent.decode(await _read(reader))


async def read_from_daemon(reader: asyncio.StreamReader) -> FromDaemon:
    """The next message. Raises IncompleteReadError, OSError: the connection ended; DECODE_ERRORS: nonsense."""
    return _from_daemon.decode(await _read(reader))


async def _read(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(HEADER_BYTES)
    if (length := int.from_bytes(header, "little")) > MAX_FRAME_BYTES:
        raise msgspec.DecodeError(f"a frame of {length} bytes")
    return await reader.readexactly(length)
