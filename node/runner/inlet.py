"""The runner's end of the socket, reading: whole frames, decoded."""

from __future__ import annotations

import socket

from node.runner.protocol import FRAME_HEADER_BYTES, MAX_FRAME_BYTES, Request, decode_request


class FrameTooLong(Exception):
    """The peer announced a frame that no request can need; the stream can't be trusted any more."""


def read_request(connection: socket.socket) -> Request | None:
    """Wait for the next request; None once the daemon has closed the socket.

    Raises: FrameTooLong; msgspec.DecodeError for anything that is not a request.
    """
    header = _read_exactly(connection, FRAME_HEADER_BYTES)
    if header is None:
        return None
    length = int.from_bytes(header, "little")
    if length > MAX_FRAME_BYTES:
        raise FrameTooLong(length)
    body = _read_exactly(connection, length)
    return None if body is None else decode_request(body)


def _read_exactly(connection: socket.socket, count: int) -> bytearray | None:
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        try:
            got = connection.recv_into(view)
        except ConnectionResetError:
            return None
        if got == 0:
            return None
        view = view[got:]
    return buffer
