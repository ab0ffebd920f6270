"""The forms in which people write a setting: durations, sizes, addresses, switches. Text or TOML value in, value out.

Every parser raises ValueError for what it can't read; the caller knows where the value came from and says so.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Any

from msgspec import Struct

DEFAULT_PORT = 11434
PORT_OF_SCHEME = {"http": 80, "https": 443}

_SECONDS_PER = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_BYTES_PER = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]|ki|mi|gi)?b?", re.IGNORECASE)
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_TRUE = {"1", "t", "true", "on", "yes"}
_FALSE = {"0", "f", "false", "off", "no"}
MAX_DURATION_CHARS = 64
LONGEST_WAIT_S = 3600.0
MAX_NAME_BYTES = 63


class Address(Struct, frozen=True, kw_only=True):
    """Where a daemon listens, or is reached: what `OLLAMA_HOST` says."""

    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    path: str = ""

    @property
    def reachable_host(self) -> str:
        """The host to connect to: loopback where the daemon listens on every interface."""
        try:
            parsed = ipaddress.ip_address(self.host)
        except ValueError:
            return self.host
        if not parsed.is_unspecified:
            return self.host
        return "127.0.0.1" if parsed.version == 4 else "::1"

    @property
    def is_this_machine(self) -> bool:
        """Whether a node at that address can only be one of this machine."""
        try:
            parsed = ipaddress.ip_address(self.host)
        except ValueError:
            return self.host == "localhost"
        return parsed.is_loopback or parsed.is_unspecified

    @property
    def url(self) -> str:
        """The URL that a client on this machine uses, without a slash at the end."""
        host = f"[{self.reachable_host}]" if ":" in self.reachable_host else self.reachable_host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_address(value: Any) -> Address:
    """`[scheme://]host[:port][/path]`, each part optional, as Ollama reads OLLAMA_HOST.

    The port defaults to 11434, or to the scheme's own where one is given; an empty host before a port (":8080")
    means every interface.
    """
    text = _text(value)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    elif scheme not in PORT_OF_SCHEME:
        raise ValueError(text)
    default_port = PORT_OF_SCHEME[scheme] if separator else DEFAULT_PORT
    host_and_port, slash, path = rest.partition("/")
    host, port = _split_host(host_and_port)
    return Address(
        scheme=scheme,
        host=host,
        port=default_port if port is None else port,
        path=f"/{path}".rstrip("/") if slash else "",
    )


def _split_host(text: str) -> tuple[str, int | None]:
    if not text:
        return Address().host, None
    if ip := _ip(text.removeprefix("[").removesuffix("]")):
        return ip, None
    host, colon, port = text.rpartition(":")
    if not colon:
        return _host(text), None
    if port and not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(text)
    number = int(port) if port else None
    if not host:
        return "0.0.0.0", number  # noqa: S104 - ":8080" asks for just that
    return _host(host), number


def _host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ip := _ip(bare):
        return ip
    if bare != text or not _HOST_NAME.fullmatch(text):
        raise ValueError(text)
    return text


def _ip(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def parse_duration(value: Any) -> float:
    """Seconds: a plain number, or Go's notation ("5m", "1h30m", "-1s"). Any negative one means for ever: math.inf."""
    if isinstance(value, bool):
        raise ValueError(value)
    seconds = float(value) if isinstance(value, int | float) else _duration_seconds(_text(value))
    if not math.isfinite(seconds):
        raise ValueError(value)
    return math.inf if seconds < 0 else seconds


def parse_wait(value: Any) -> float:
    """Seconds, as `parse_duration`, but an hour at most."""
    seconds = parse_duration(value)
    if seconds > LONGEST_WAIT_S:
        raise ValueError(value)
    return seconds


def _duration_seconds(text: str) -> float:
    if len(text) > MAX_DURATION_CHARS:
        raise ValueError(text)
    sign = -1.0 if text.startswith("-") else 1.0
    body = text[1:] if text[:1] in {"-", "+"} else text
    if re.fullmatch(r"\d+", body, re.ASCII):
        return sign * float(body)
    end, total = 0, 0.0
    for part in _DURATION_PART.finditer(body):
        if part.start() != end:
            raise ValueError(text)
        total += float(part[1]) * _SECONDS_PER[part[2]]
        end = part.end()
    if not body or end != len(body):
        raise ValueError(text)
    return sign * total


def parse_timeout(value: Any) -> float:
    """A duration of which zero means no limit, as a negative one does."""
    return parse_duration(value) or math.inf


def parse_size(value: Any) -> int:
    """Bytes: a plain number, or one with a unit (512MiB, 2GB)."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not (match := _SIZE.fullmatch(_text(value))):
        raise ValueError(value)
    return int(float(match[1]) * _BYTES_PER[(match[2] or "").lower()])


def parse_count(value: Any) -> int:
    """A whole number from 0."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    text = _text(value)
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise ValueError(text)
    return int(text)


def parse_port(value: Any) -> int:
    """A TCP port."""
    if not 1 <= (port := parse_count(value)) <= 65535:
        raise ValueError(value)
    return port


def parse_name(value: Any) -> str:
    """A name for people: printable, one line, not too long."""
    name = _text(value)
    if not name.isprintable() or not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
        raise ValueError(value)
    return name


def parse_addresses(value: Any) -> tuple[str, ...]:
    """IP addresses, as `parse_words` takes words."""
    return tuple(str(ipaddress.ip_address(word)) for word in parse_words(value))


def parse_peers(value: Any) -> tuple[str, ...]:
    """`host` or `host:port`, as `parse_words` takes words."""
    words = parse_words(value)
    for word in words:
        host, port = _split_host(word)
        if port == 0 or host == "0.0.0.0":  # noqa: S104 - nobody can be dialled there; ":8080" is read so, too
            raise ValueError(word)
    return words


def parse_switch(value: Any) -> bool:
    """Yes or no, in the words of a shell or of Go."""
    if isinstance(value, bool):
        return value
    word = str(value).lower() if isinstance(value, int) else _text(value).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(value)


def parse_words(value: Any) -> tuple[str, ...]:
    """A TOML array of strings, or one string with commas."""
    parts = value if isinstance(value, list) else _text(value).split(",")
    words = tuple(_text(part).strip() for part in parts)
    return tuple(word for word in words if word)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value.strip()
