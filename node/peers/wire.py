"""The words between two daemons: msgpack values in length-prefixed frames, and errors that survive the trip.

A link is one HTTP request whose two bodies never end. Up it go asks, each with a number of the asker's choosing;
down come batches of outcomes, each with the number it belongs to. Everything that became ready at the same moment,
for all asks, is one frame, so the cost per token falls as load rises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from node import errors
from node.decoding import DECODE_ERRORS
from node.jobs import Delta, Done, Embedded, EmbedJob, Failed, Job, Rendered
from node.peers.errors import ModelNotThere, PeerLost
from node.supervisor import LoadedModel, LoadOptions
from registry import ModelNotFound, RegistryError

FRAME_HEADER_BYTES = 4
# An ask carries at most a request body (bounded by the API) and its images, as for a runner.
MAX_FRAME_BYTES = 256 << 20
MAX_FAULT_CHARS = 2000


class Nonsense(Exception):
    """Bytes from another machine that mean nothing; for whoever reads them to answer or to hang up."""


class ModelRef(Struct, frozen=True, array_like=True):
    """A model by its full name and `Model.weights_digest` (64 hex digits): both nodes mean the same bytes.

    The rest of it, such as a system prompt, is in the job; so a machine that has the weights under another name does.
    """

    name: str
    weights: str


class RunAsk(Struct, frozen=True, tag="run"):
    """Generate; `Delta` ... and `Done` follow."""

    number: int
    model: ModelRef
    job: Job
    options: LoadOptions
    keep_alive_s: float | None


class EmbedAsk(Struct, frozen=True, tag="embed"):
    """Embed texts; `Embedded` follows."""

    number: int
    model: ModelRef
    job: EmbedJob
    options: LoadOptions
    keep_alive_s: float | None


class RenderAsk(Struct, frozen=True, tag="render"):
    """Only render the job's prompt; `Rendered` follows."""

    number: int
    model: ModelRef
    job: Job
    options: LoadOptions
    keep_alive_s: float | None


class LoadAsk(Struct, frozen=True, tag="load"):
    """Have the model in memory; `LoadedModel` follows."""

    number: int
    model: ModelRef
    options: LoadOptions
    keep_alive_s: float | None
    embedding: bool = False


class UnloadAsk(Struct, frozen=True, tag="unload"):
    """Forget the model of this full name; `Unloaded` follows."""

    number: int
    name: str


class Forget(Struct, frozen=True, tag="forget"):
    """The asker no longer wants this; nothing more about it is promised."""

    number: int


Ask: TypeAlias = RunAsk | EmbedAsk | RenderAsk | LoadAsk | UnloadAsk
Up: TypeAlias = Ask | Forget


class Ready(Struct, frozen=True, tag="ready"):
    """A loaded model, as an outcome."""

    model: LoadedModel


class Unloaded(Struct, frozen=True, tag="unloaded"):
    """Whether the model was there to be unloaded."""

    found: bool


class Fault(Struct, frozen=True, tag="fault"):
    """A `NodeError` of the other node: its class's name and its fields."""

    kind: str
    fields: tuple[Any, ...] = ()


Outcome: TypeAlias = Delta | Done | Failed | Embedded | Rendered | Ready | Unloaded | Fault


class Down(Struct, frozen=True, array_like=True):
    """An outcome and the ask that it belongs to."""

    number: int
    outcome: Outcome


encode = msgspec.msgpack.Encoder().encode
_decode_up = msgspec.msgpack.Decoder(Up).decode
_decode_down = msgspec.msgpack.Decoder(tuple[Down, ...]).decode
# A name in them may be none.
_NONSENSE = (*DECODE_ERRORS, RegistryError)


def decode_up(body: bytes) -> Up:
    """Raises Nonsense."""
    try:
        up: Up = _decode_up(body)
        return up
    except _NONSENSE as error:
        raise Nonsense(str(error)) from None


def decode_down(body: bytes) -> tuple[Down, ...]:
    """Raises Nonsense."""
    try:
        return _decode_down(body)
    except _NONSENSE as error:
        raise Nonsense(str(error)) from None


def decode_as(kind: Any, body: bytes) -> Any:
    """The body of a call, or the answer to one. Raises Nonsense."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except _NONSENSE as error:
        raise Nonsense(str(error)) from None


def frame(message: Up | list[Down]) -> bytes:
    """Encode a message with its length in front."""
    body = encode(message)
    return len(body).to_bytes(FRAME_HEADER_BYTES, "little") + body


class FrameReader:
    """Cuts a stream of bytes into the bodies of frames."""

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add what came; yields every frame that is now whole. Raises Nonsense: one is too long."""
        pending = self._pending
        pending += data
        at = 0
        try:
            while len(pending) - at >= FRAME_HEADER_BYTES:
                length = int.from_bytes(pending[at : at + FRAME_HEADER_BYTES], "little")
                if length > self._limit_bytes:
                    raise Nonsense(f"a frame of {length} bytes")
                start = at + FRAME_HEADER_BYTES
                if len(pending) - start < length:
                    break
                at = start + length
                yield bytes(pending[start:at])
        finally:
            del pending[:at]


# Which errors travel, and of what types their fields are; any other becomes a LoadFailure with its text.
_TRAVELLING: dict[str, tuple[type[errors.NodeError], Any]] = {
    kind.__name__: (kind, fields)
    for kind, fields in (
        (errors.QueueFull, tuple[int, int]),
        (errors.DoesNotFit, tuple[int, int, str]),
        (errors.LoadFailure, tuple[str]),
        (errors.RunnerLost, tuple[str, str]),
        (errors.SlowReader, tuple[int]),
        (errors.DevicesUnknown, tuple[str]),
        (errors.JobFailed, tuple[Failed]),
        (errors.Closing, tuple[()]),
    )
}


def fault_of(error: Exception) -> Fault:
    """The error as it travels."""
    name = type(error).__name__
    if isinstance(error, ModelNotFound):
        return Fault(ModelNotThere.__name__, (str(error.name),))
    if name in _TRAVELLING:
        return Fault(name, error.args)
    return Fault("LoadFailure", (str(error)[:MAX_FAULT_CHARS],))


def error_of(fault: Fault, node: str) -> errors.NodeError:
    """The error that travelled; one that makes no sense says that the node is not to be relied on."""
    if fault.kind == ModelNotThere.__name__ and len(fault.fields) == 1:
        return ModelNotThere(node, str(fault.fields[0]))
    kind, fields = _TRAVELLING.get(fault.kind, (None, None))
    if kind is None:
        return PeerLost(node, f"it reported an unknown error ({fault.kind[:40]})")
    try:
        return kind(*msgspec.convert(fault.fields, fields))
    except msgspec.ValidationError:
        return PeerLost(node, f"it reported an error that makes no sense ({fault.kind})")
