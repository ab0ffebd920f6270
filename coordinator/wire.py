"""Events and orders as bytes, on their way between a daemon and the coordinator: a pair of kind and value."""

from __future__ import annotations

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
    Reported,
    Unload,
)

EVENTS = (Reported, NodeLost, Asked, LoadFailed)
ORDERS = (Load, Unload, Placed)
_KINDS = {kind.__name__: kind for kind in (*EVENTS, *ORDERS)}

_encode = msgspec.msgpack.Encoder().encode
_envelope = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])


def encode_event(event: PlacementEvent) -> bytes:
    """An event as bytes."""
    return _encode((type(event).__name__, event))


def decode_event(body: bytes) -> PlacementEvent:
    """Read an event. Raises DECODE_ERRORS."""
    event: PlacementEvent = _decode(body, EVENTS)
    return event


def encode_order(order: Order) -> bytes:
    """An order as bytes."""
    return _encode((type(order).__name__, order))


def decode_order(body: bytes) -> Order:
    """Read an order. Raises DECODE_ERRORS."""
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
