"""What a machine announces about itself: one DNS-SD record, small enough for one packet, without any secret.

Anybody on the network can announce anything, so reading is strict and bounded, and nothing read here is believed:
an advert says whom to dial, the certificates of the connection say who it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from node.discovery.errors import UnreadableRecord
from node.identity import ClusterId, NodeId

SERVICE_TYPE = "_ayni._tcp.local."
RECORD_VERSION = 1
# Every string is one TXT entry; all of them, SRV, PTR and addresses have to fit into one Ethernet frame.
MAX_RECORD_BYTES = 400
MAX_NAME_BYTES = 63
MAX_GENERATION = 1 << 53

_ID = re.compile(r"[0-9a-f]{16}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,32}")
_NOT_IN_LABEL = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """A member of a cluster as it describes itself.

    Attributes:
        port: of its LAN listener.
        fingerprint: SHA-256 of its certificate, 64 hex digits; changes with each renewal.
        generation: of the Ray cluster it knows; 0 before the first.
        head: whether it runs Ray's control store.
        version: of Ayni.
    """

    node: NodeId
    node_name: str
    cluster: ClusterId
    cluster_name: str
    port: int
    fingerprint: str
    version: str
    generation: int = 0
    head: bool = False

    @property
    def instance(self) -> str:
        """The service's full name: readable, and unique through the node's id."""
        return f"{dns_label(self.node_name)[:40]}-{self.node[:8]}.{SERVICE_TYPE}"

    @property
    def host(self) -> str:
        """The host name that the service points to."""
        return f"ayni-{self.node}.local."


def dns_label(name: str) -> str:
    """A name as one DNS label: lower-case letters, digits and hyphens; "node" where nothing is left."""
    return _NOT_IN_LABEL.sub("-", name.lower())[:MAX_NAME_BYTES].strip("-") or "node"


def encode(advert: Advert) -> dict[str, str]:
    """The TXT entries. The port is in the SRV record."""
    return {
        "v": str(RECORD_VERSION),
        "id": advert.node,
        "name": _cut(advert.node_name),
        "cluster": advert.cluster,
        "cname": _cut(advert.cluster_name),
        "fp": advert.fingerprint,
        "gen": str(advert.generation),
        "head": str(int(advert.head)),
        "ayni": advert.version[:32],
    }


def txt_bytes(entries: Mapping[str, str]) -> int:
    """What the entries take on the wire: a length byte, the key, an equals sign and the value each."""
    return sum(2 + len(key.encode()) + len(value.encode()) for key, value in entries.items())


def decode(instance: str, port: int | None, properties: Mapping[bytes, bytes | None]) -> Advert:
    """Read a record of the network. Raises UnreadableRecord: with the first rule that it breaks.

    Entries that we don't know are skipped: a newer version may say more.
    """
    if sum(len(key) + len(value or b"") for key, value in properties.items()) > 4 * MAX_RECORD_BYTES:
        raise UnreadableRecord(instance, "it is too long")
    text = _Entries(instance, properties)
    if (version := text.number("v", most=1 << 16)) != RECORD_VERSION:
        raise UnreadableRecord(instance, f"it is in format {version}, this machine reads {RECORD_VERSION}")
    if not port or not 0 < port < 1 << 16:
        raise UnreadableRecord(instance, "it names no port")
    return Advert(
        node=NodeId(text.match("id", _ID)),
        node_name=text.name("name"),
        cluster=ClusterId(text.match("cluster", _ID)),
        cluster_name=text.name("cname"),
        port=port,
        fingerprint=text.match("fp", _FINGERPRINT),
        version=text.match("ayni", _VERSION),
        generation=text.number("gen", most=MAX_GENERATION),
        head=text.number("head", most=1) == 1,
    )


class _Entries:
    """TXT entries, each read by the rule for its kind."""

    def __init__(self, instance: str, properties: Mapping[bytes, bytes | None]) -> None:
        self._instance, self._properties = instance, properties

    def text(self, key: str) -> str:
        raw = self._properties.get(key.encode())
        if raw is None:
            raise UnreadableRecord(self._instance, f"{key} is missing")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise UnreadableRecord(self._instance, f"{key} is not UTF-8") from None

    def match(self, key: str, pattern: re.Pattern[str]) -> str:
        if not pattern.fullmatch(text := self.text(key)):
            raise UnreadableRecord(self._instance, f"{key} is malformed")
        return text

    def number(self, key: str, *, most: int) -> int:
        text = self.text(key)
        if not (text.isascii() and text.isdecimal() and len(text) <= 16) or int(text) > most:
            raise UnreadableRecord(self._instance, f"{key} is no number up to {most}")
        return int(text)

    def name(self, key: str) -> str:
        text = self.text(key)
        # These end up on people's terminals.
        if not text.isprintable() or not 0 < len(text.encode()) <= MAX_NAME_BYTES:
            raise UnreadableRecord(self._instance, f"{key} is no name")
        return text


def _cut(name: str) -> str:
    """As much of a name as fits, in whole characters, and never nothing."""
    kept = name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return "".join(character for character in kept if character.isprintable()).strip() or "node"
