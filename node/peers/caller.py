"""One call to one address: msgpack there and back over TLS, within bounds; every failure is a typed error."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar, cast

import aiohttp
import msgspec

from node.identity import JoinRefusal, Signed, refusal_error
from node.peers.endpoints import IDENTITY_FAULT, PREFIX, REMOVAL_FAULT
from node.peers.errors import CallRefused, PeerRefused, RemovalTold
from node.peers.link import unreachable
from node.peers.wire import Fault, Nonsense, decode_as, error_of

if TYPE_CHECKING:
    import ssl

Answer = TypeVar("Answer")

MAX_ANSWER_BYTES = 8 << 20


async def call_at(
    session: aiohttp.ClientSession,
    context: ssl.SSLContext,
    address: str,
    name: str,
    body: bytes,
    answer: type[Answer],
    *,
    shown: str,
    limit_s: float,
) -> Answer:
    """Call `name` of whoever answers at host:port and is accepted by `context`; `shown` names it in errors.

    Raises: PeerUnreachable, PeerRefused, RemovalTold; IdentityError and NodeError as they were raised there.
    """
    try:
        async with (
            asyncio.timeout(limit_s),
            session.post(f"https://{address}{PREFIX}{name}", data=body, ssl=context) as response,
        ):
            status = response.status
            found = await read_bounded(response, MAX_ANSWER_BYTES)
        if status == 200:
            return cast(Answer, decode_as(answer, found))
        fault: Fault = decode_as(Fault, found)
    except TimeoutError:
        raise unreachable(shown, TimeoutError(f"no answer within {limit_s:g} s")) from None
    except (aiohttp.ClientError, OSError) as error:
        raise unreachable(shown, error) from None
    except Nonsense:
        raise PeerRefused(shown, status, "its answer makes no sense") from None
    if fault.kind == CallRefused.__name__:
        raise PeerRefused(shown, status, str(fault.fields[-1])[:500] if fault.fields else "no reason given")
    field = fault.fields[0] if fault.fields else None
    try:
        if fault.kind == REMOVAL_FAULT:
            raise RemovalTold(shown, msgspec.convert(field, Signed))
        if fault.kind == IDENTITY_FAULT:
            raise refusal_error(msgspec.convert(field, JoinRefusal))
    except msgspec.ValidationError:
        raise PeerRefused(shown, status, "its refusal makes no sense") from None
    raise error_of(fault, shown)


async def read_bounded(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The body, at most so much of it."""
    found = bytearray()
    while len(found) < limit_bytes and (data := await response.content.read(limit_bytes - len(found))):
        found += data
    return bytes(found)
