"""Speak to a node over HTTP: one connection per request, answers as parsed JSON, failures as `cli.errors`.

It knows HTTP and Ollama's error shape; which paths exist and what they mean is the verbs' business. `http.client`
and not a bigger library, because a verb that only asks one question should not pay for more at its start.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO

from cli.errors import ConnectionLost, NotRunning, ServerError
from cli.text import cell
from cli.version import __version__
from node.setting_values import Address

MAX_ANSWER_BYTES = 256 * 1024 * 1024  # `show --verbose` of a large model lists every tensor and token
MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_ERROR_CHARS = 2000
UPLOAD_CHUNK_BYTES = 1024 * 1024
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0


class Client:
    """The node at one address.

    A wait without a bound, as for a model to load, still ends when the node's machine no longer answers TCP
    keep-alives.
    """

    def __init__(self, address: Address, credential: Callable[[], str] = lambda: "") -> None:
        """`credential`: asked with each request for what it is to prove itself with; "": nothing."""
        self.address = address
        self._credential = credential

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = ANSWER_TIMEOUT_S,
    ) -> dict[str, Any]:
        """The whole answer as a JSON object; {} where it has no body.

        Raises: NotRunning, ConnectionLost, ServerError.
        """
        with self._request(method, path, _encode(body), timeout_s=timeout_s) as response:
            text = response.read(MAX_ANSWER_BYTES)
        return _parse_object(text) if text.strip() else {}

    def stream(
        self, path: str, body: dict[str, Any], *, timeout_s: float | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """The objects of a newline-delimited answer as they come; closing the iterator cancels the request.

        `timeout_s`: how long nothing may come.

        Raises: NotRunning, ConnectionLost, ServerError: also for an `{"error": ...}` amid the stream.
        """
        with self._request("POST", path, _encode(body), timeout_s=timeout_s) as response:
            while line := response.readline(MAX_LINE_BYTES):
                if not line.strip():
                    continue
                event = _parse_object(line)
                if isinstance(error := event.get("error"), str) and error:
                    raise ServerError(response.status, _one_line(error))
                yield event

    def has_blob(self, digest: str) -> bool:
        """Whether the node already holds a blob ("sha256:<hex>")."""
        try:
            with self._request("HEAD", f"/api/blobs/{digest}", None, timeout_s=ANSWER_TIMEOUT_S):
                return True
        except ServerError as error:
            if error.status == http.HTTPStatus.NOT_FOUND:
                return False
            raise

    def upload_blob(self, digest: str, file: BinaryIO, size_bytes: int, sent: Callable[[int], None]) -> None:
        """Send a file's bytes under its digest; `sent` hears the size of each chunk that has left."""

        def chunks() -> Iterator[bytes]:
            while chunk := file.read(UPLOAD_CHUNK_BYTES):
                yield chunk
                sent(len(chunk))

        # The answer comes once the node has the bytes on its disk and hashed: minutes for a large file.
        with self._request("POST", f"/api/blobs/{digest}", chunks(), timeout_s=None, size_bytes=size_bytes):
            pass

    @contextlib.contextmanager
    def _request(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None,
        *,
        timeout_s: float | None,
        size_bytes: int | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """A response of status below 400, its connection closed at the end."""
        connection = self._connect(timeout_s)
        try:
            headers = {"User-Agent": f"ayni/{__version__}", "Accept": "application/json, application/x-ndjson"}
            if credential := self._credential():
                headers["Authorization"] = f"Bearer {credential}"
            if body is not None:
                headers["Content-Type"] = "application/json" if isinstance(body, bytes) else "application/octet-stream"
                headers["Content-Length"] = str(len(body) if isinstance(body, bytes) else size_bytes)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # A node that refuses a body answers and closes before it has read it all: the answer counts.
                connection.request(method, self.address.path + path, body, headers)
            response = connection.getresponse()
            if response.status >= http.HTTPStatus.BAD_REQUEST:
                raise _refusal(response)
            yield response
        except TimeoutError as error:
            raise ConnectionLost(f"the node at {self.address.url} stopped answering") from error
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionLost(f"lost the connection to the node at {self.address.url}: {_reason(error)}") from error
        finally:
            connection.close()

    def _connect(self, timeout_s: float | None) -> http.client.HTTPConnection:
        """An open connection. Raises NotRunning."""
        kind = http.client.HTTPSConnection if self.address.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.address.reachable_host, self.address.port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
        except OSError as error:
            raise NotRunning(self.address.url, _reason(error), self._hint(error)) from error
        connection.sock.settimeout(timeout_s)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def _hint(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"Trust the cluster's certificate, {self.address.url}/ca.pem, by naming its file in SSL_CERT_FILE"
        return "Start one on this machine with: ayni serve" if self.address.is_this_machine else ""


def _encode(body: dict[str, Any] | None) -> bytes | None:
    # Half a character, as a terminal or an argument may bring it, is no UTF-8: it becomes a question mark.
    return None if body is None else json.dumps(body, ensure_ascii=False).encode(errors="replace")


def _parse_object(text: bytes) -> dict[str, Any]:
    """Raises ConnectionLost: it is no JSON object, so whatever answers is no node, or was cut off."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConnectionLost(f"the answer is not a node's: {_one_line(text[:80].decode(errors='replace'))!r}")
    return value


def _refusal(response: http.client.HTTPResponse) -> ServerError:
    """The error of a response, in the node's own words where it has some."""
    text = response.read(MAX_LINE_BYTES)
    try:
        message = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        message = text.decode(errors="replace").strip()
    if not isinstance(message, str) or not message:
        message = f"the node answered {response.status} {response.reason}"
    return ServerError(response.status, _one_line(message))


def _one_line(message: str) -> str:
    return cell(message.replace("\n", " "))[:MAX_ERROR_CHARS]


def _reason(error: Exception) -> str:
    """What the system says about a failed connection, without its numbers."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, http.client.HTTPException):
        return "the answer was cut off"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
