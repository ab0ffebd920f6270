"""Events and orders as bytes, on their way between a daemon and the coordinator.

A pair of kind and value. Deadlines travel as time left, because the clocks of two machines have nothing in common.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import msgspec

from coordinator.orders import (
    Asked,
    Load,
    LoadFailed,
    NodeLost,
    Order,
    Placed,
    PlacementEvent,
    Refused,
    Reported,
    Unload,
    Withdrawn,
)

EVENTS = (Reported, NodeLost, Asked, Withdrawn, LoadFailed)
ORDERS = (Load, Unload, Placed, Refused)
_KINDS = {kind.__name__: kind for kind in (*EVENTS, *ORDERS)}

_encode = msgspec.msgpack.Encoder().encode
_envelope = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])


def encode_event(event: PlacementEvent, now_s: float) -> bytes:
    """`now_s`: by the clock that the event's deadline was set by."""
    if isinstance(event, Asked):
        event = replace(event, deadline_s=event.deadline_s - now_s)
    return _encode((type(event).__name__, event))


def decode_event(body: bytes, now_s: float) -> PlacementEvent:
    """Read an event, its deadline by this machine's clock. Raises msgspec.DecodeError."""
    event: PlacementEvent = _decode(body, EVENTS)
    return replace(event, deadline_s=event.deadline_s + now_s) if isinstance(event, Asked) else event


def encode_order(order: Order) -> bytes:
    """An order as bytes."""
    return _encode((type(order).__name__, order))


def decode_order(body: bytes) -> Order:
    """Read an order. Raises msgspec.DecodeError."""
    order: Order = _decode(body, ORDERS)
    return order


def _decode(body: bytes, allowed: tuple[type, ...]) -> Any:
    name, value = _envelope.decode(body)
    if _KINDS.get(name) not in allowed:
        raise msgspec.ValidationError(f"{name!r} is not expected here")
    return _decoder(name).decode(value)


@cache
def _decoder(name: str) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(_KINDS[name])
