"""HTTP on one connection, with bounds on what is read before anybody has been asked whether it is wanted.

Uvicorn and its parser keep a head of any length, and copy it with each piece that comes; bodies are bounded where they
are read (`api.body`). Both servers speak through this.
"""

from __future__ import annotations

import logging

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.errors import Fault

log = logging.getLogger(__name__)

# Of a request's head, and of whatever else of it is no body, such as trailers. Common servers take 8 to 64 KiB.
MAX_HEAD_BYTES = 64 << 10
# Requests sent ahead of the answer to an earlier one. Clients that do so at all send a few.
MAX_PIPELINED = 16
_TOO_LONG = Fault(431, f"request head too long: at most {MAX_HEAD_BYTES} bytes are read").native()
_TOO_LONG_ANSWER = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_TOO_LONG), _TOO_LONG)
)


class BoundedHttp(HttpToolsProtocol):
    """Uvicorn's protocol, within bounds."""

    # Since the last piece of a body, or the last message's end.
    _head_bytes = 0
    # Whether more of a body is to come; it may do so after its answer.
    in_body = False

    @property
    def answering(self) -> bool:
        """Whether a request is in hand."""
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is too much."""
        if self.transport.is_closing():
            return  # TLS goes on decrypting until the other side has closed too
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def on_headers_complete(self) -> None:
        """A request is known. Raises ValueError, which the parser makes a bad request of: too many wait already."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests before an answer")
        self.in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body came."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here in whole."""
        self._head_bytes, self.in_body = 0, False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; within an answer that has begun there is no place to say so."""
        if self.answering:
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def _refuse_head(self) -> None:
        log.info("refused client=%s status=431", (self.client or ("?",))[0])
        if self.answering:
            self.transport.abort()
        else:
            self.transport.write(_TOO_LONG_ANSWER)
            self.transport.close()
