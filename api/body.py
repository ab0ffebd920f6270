"""Request bodies: read within a bound, parsed as JSON, checked against a pydantic model; else one clear BadRequest.

As Ollama does, the Content-Type is not asked for, a null field counts as absent, and unknown fields are ignored.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from api.errors import BadRequest, BodiesTooMany, BodyTooLarge, BodyTooSlow, MissingBody

# Parsing this much takes about a millisecond; more is parsed beside the event loop.
PARSE_ON_LOOP_BYTES = 256 << 10
# What has come of a body is held in memory: so much more of it has to come in the time, or its end.
PACE_BYTES = 1 << 20
PACE_S = 30.0
# Of each body so much finds a place always; bodies of usual requests are shorter. What is longer shares this many times
# the longest that is read.
FREE_BYTES = 64 << 10
MOST_LONG_BODIES = 8
# A client that still sends after the limit may not read our answer before it is through: listen for a while.
DISCARD_BYTES = 64 << 20
DISCARD_S = 5.0
MAX_TEXT_CHARS = 300


class BodyRoom:
    """The memory for long bodies that are on their way, over all connections to one port."""

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes`: for what the bodies have beyond `FREE_BYTES` each."""
        self._left_bytes = limit_bytes

    @contextmanager
    def place(self) -> Iterator[Callable[[int], None]]:
        """For one body, until the block ends; to be told how long it is by now. That raises BodiesTooMany."""
        held = 0

        def grown(length: int) -> None:
            nonlocal held
            more = max(0, length - FREE_BYTES) - held
            if more > self._left_bytes:
                raise BodiesTooMany
            self._left_bytes -= more
            held += more

        try:
            yield grown
        finally:
            self._left_bytes += held


class Body(BaseModel):
    """A JSON object from a client; null counts as absent, unknown fields are ignored, types are not guessed."""

    model_config = ConfigDict(
        extra="ignore", strict=True, protected_namespaces=(), populate_by_name=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


def _decode_image(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("Input should be base64 text")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("illegal base64 data") from None


def _portable(value: Any) -> Any:
    """Refuse numbers that neither msgpack nor a template can hold. The parser has bounded the depth."""
    match value:
        case bool() | str() | None:
            pass
        case int():
            if not -(2**63) <= value < 2**64:
                raise ValueError("number out of range")
        case float():
            if not math.isfinite(value):
                raise ValueError("number out of range")
        case list():
            for item in value:
                _portable(item)
        case dict():
            for item in value.values():
                _portable(item)
    return value


Image = Annotated[bytes, BeforeValidator(_decode_image)]
"""Base64 text on the wire, or a data: URL; bytes inside."""
JsonObject = Annotated[dict[str, Any], AfterValidator(_portable)]
"""Free-form JSON whose numbers fit into 64 bits."""
JsonValue = Annotated[Any, AfterValidator(_portable)]

Parsed = TypeVar("Parsed", bound=Body)


def json_body(kind: type[Parsed]) -> Any:
    """A FastAPI dependency: the request's body as a `kind`. Raises BadRequest, and as `read_body`."""

    async def read(request: Request) -> Parsed:
        state = request.app.state
        raw = await read_body(request, limit_bytes=state.daemon.settings.max_body_bytes, room=state.body_room)
        if len(raw) <= PARSE_ON_LOOP_BYTES:
            return parse_body(kind, raw)
        return await asyncio.to_thread(parse_body, kind, raw)

    return Depends(read)


async def read_body(request: Request, *, limit_bytes: int, room: BodyRoom) -> bytes:
    """The whole body.

    Raises: BodyTooLarge; BodyTooSlow; BodiesTooMany; BadRequest: the client left before it was through.
    """
    length = request.headers.get("content-length", "")
    body, due_bytes = bytearray(), PACE_BYTES
    with room.place() as grown:
        try:
            async with asyncio.timeout(PACE_S) as pace:
                async for chunk in request.stream():
                    grown(len(body) + len(chunk))
                    body += chunk
                    if len(body) > limit_bytes or (length.isdecimal() and int(length) > limit_bytes):
                        await _discard(request)
                        raise BodyTooLarge(limit_bytes)
                    if len(body) >= due_bytes:
                        due_bytes = len(body) + PACE_BYTES
                        pace.reschedule(asyncio.get_running_loop().time() + PACE_S)
        except TimeoutError:
            raise BodyTooSlow from None
        except ClientDisconnect:
            raise BadRequest("the request body ended early") from None
    return bytes(body)


async def _discard(request: Request) -> None:
    """Read on for a while without keeping anything."""
    left = DISCARD_BYTES
    try:
        async with asyncio.timeout(DISCARD_S):
            while left > 0:
                message = await request.receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return  # it has had its time


def parse_body(kind: type[Parsed], raw: bytes) -> Parsed:
    """Raises: MissingBody: nothing there; BadRequest: no JSON, or not what `kind` expects, naming the field."""
    if not raw.strip():
        raise MissingBody
    try:
        data = from_json(raw, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise BadRequest(f"invalid JSON: {str(error)[:MAX_TEXT_CHARS]}") from None
    if not isinstance(data, dict):
        raise BadRequest("the request body must be a JSON object")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> BadRequest:
    """The first thing that is wrong, and where; the client's values are not repeated."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:MAX_TEXT_CHARS]
    what = first["msg"].removeprefix("Value error, ")
    return BadRequest(f"{where}: {what}" if where else what, where or None)
