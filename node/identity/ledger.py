"""What all members must know about trust: signed records, kept for as long as they matter, the same everywhere.

The ledger is a set that only grows by records the root signed, so two ledgers are merged in any order, any number of
times, with one result, and a node that was switched off catches up. `fingerprint` tells in 16 bytes whether two
ledgers differ: peers exchange it with each heartbeat, and records only when it does. Revocations are kept for ever, as
a clock that was wrong once must not make anything good again; people make few. What only lists a token is dropped
everywhere by the same rule once that has expired.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Set
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from node.decoding import DECODE_ERRORS
from node.identity.errors import Forged, LedgerFull, Malformed, UnusableFile
from node.identity.files import read_private, write_private
from node.identity.ids import NodeId, parse_cluster_name
from node.identity.root import ClusterRoot, TrustAnchor
from node.identity.signing import Signed
from node.identity.tokens import Grant

MAX_RECORD_BYTES = 16 << 10
# More tokens than this at the same time are somebody's loop; there is no limit to revoking.
MAX_LISTED_TOKENS = 20_000
# Of one message from a peer. Checking a signature takes up to 0.2 ms, and nobody else is served meanwhile.
MAX_RECORDS = 2000
# A token is listed for so long after its end, so that clocks that differ do not matter.
MARGIN_S = 86400.0


class TokenRevoked(Struct, frozen=True, kw_only=True, tag="token revoked"):
    """The token is refused from now on."""

    token_id: Annotated[str, Meta(max_length=64)]


class NodeRevoked(Struct, frozen=True, kw_only=True, tag="node revoked"):
    """The node is no member any more, whatever certificate it shows; its id never comes back.

    `at_ms` is by the clock of the machine that removed it, and so nothing depends on it.
    """

    node: Annotated[str, Meta(max_length=16)]
    at_ms: int


class TokenIssued(Struct, frozen=True, kw_only=True, tag="token issued"):
    """There is such a token; for lists, as a token counts without it."""

    grant: Grant


class ClusterNamed(Struct, frozen=True, kw_only=True, tag="cluster named"):
    """What the cluster is called since `at_ms`; the latest counts."""

    name: Annotated[str, Meta(max_length=32)]
    at_ms: int


Record: TypeAlias = TokenRevoked | NodeRevoked | TokenIssued | ClusterNamed
_Entry: TypeAlias = tuple[Signed, Record]


class Ledger:
    """The signed records of one cluster, in memory and, if `path` is given, on disk before any change is answered.

    For one event loop: not for several threads at once. Disk errors pass through as OSError.
    """

    def __init__(self, anchor: TrustAnchor, path: Path | None = None, *, now_s: float) -> None:
        """Raises: UnusableFile: the file is damaged or open to others."""
        self._anchor = anchor
        self._path = path
        self._records: dict[bytes, _Entry] = {}
        self._revoked_tokens: set[str] = set()
        self._removals: dict[NodeId, Signed] = {}
        self._fingerprint: bytes | None = None
        self._next_end_s = math.inf
        if path is not None and path.exists():
            self._load(path, now_s)

    def is_token_revoked(self, token_id: str) -> bool:
        """Whether a token of this id is refused."""
        return token_id in self._revoked_tokens

    def is_node_revoked(self, node: NodeId) -> bool:
        """Whether this node was removed, or left."""
        return node in self._removals

    def is_revoked(self, asker: str) -> bool:
        """Whether a token of this id is refused, or a node."""
        return asker in self._revoked_tokens or asker in self._removals

    def removal_of(self, node: NodeId) -> Signed | None:
        """The record by which this node was removed, which proves it to anybody; None: it was not."""
        return self._removals.get(node)

    @property
    def removed_nodes(self) -> Set[NodeId]:
        """All that were ever removed, or left, as far as is known here."""
        return self._removals.keys()

    def tokens(self) -> list[Grant]:
        """Every token that was issued and has not long expired, oldest first, revoked ones included."""
        grants = [record.grant for _, record in self._records.values() if isinstance(record, TokenIssued)]
        return sorted(grants, key=lambda grant: (grant.issued_at_s, grant.token_id))

    def cluster_name(self) -> str | None:
        """What the cluster was last named."""
        named = [record for _, record in self._records.values() if isinstance(record, ClusterNamed)]
        return max(named, key=lambda record: (record.at_ms, record.name)).name if named else None

    def fingerprint(self, *, now_s: float) -> bytes:
        """16 bytes that are equal where the records are."""
        if now_s >= self._next_end_s:
            self._take(_still_matter(self._records, now_s))
        if self._fingerprint is None:
            self._fingerprint = hashlib.sha256(b"".join(sorted(self._records))).digest()[:16]
        return self._fingerprint

    def keys(self) -> list[bytes]:
        """What names our records, for a peer whose fingerprint differs."""
        return list(self._records)

    def records(self, unless: Collection[bytes] = ()) -> list[Signed]:
        """Up to MAX_RECORDS records whose keys the asking peer did not name; revocations come first."""
        known = set(unless)
        missing = [entry for key, entry in self._records.items() if key not in known]
        missing.sort(key=lambda entry: isinstance(entry[1], TokenIssued))
        return [signed for signed, _ in missing[:MAX_RECORDS]]

    def revoke_token(self, root: ClusterRoot, token_id: str, *, now_s: float) -> Signed:
        """Refuse a token from now on, here at once and elsewhere when the record arrives."""
        return self._write(root, TokenRevoked(token_id=token_id), now_s)

    def revoke_node(self, root: ClusterRoot, node: NodeId, *, now_s: float) -> Signed:
        """Make a node a stranger."""
        return self._write(root, NodeRevoked(node=node, at_ms=int(now_s * 1000)), now_s)

    def list_token(self, root: ClusterRoot, grant: Grant, *, now_s: float) -> Signed:
        """Let every member list a new token. Raises LedgerFull."""
        if len(self.tokens()) >= MAX_LISTED_TOKENS:
            raise LedgerFull(MAX_LISTED_TOKENS)
        return self._write(root, TokenIssued(grant=grant), now_s)

    def name_cluster(self, root: ClusterRoot, name: str, *, now_s: float) -> Signed:
        """Name the cluster, or rename it. Raises InvalidClusterName."""
        return self._write(root, ClusterNamed(name=parse_cluster_name(name), at_ms=int(now_s * 1000)), now_s)

    def merge(self, records: Collection[Signed], *, now_s: float) -> list[Record]:
        """Take what a peer knows. All or nothing: one bad record, and none of them counts.

        Returns: what is new here.
        Raises: Malformed, Forged.
        """
        if len(records) > MAX_RECORDS:
            raise Malformed("ledger")
        new: dict[bytes, _Entry] = {}
        for signed in records:
            key = _key(signed)
            if key in self._records or key in new:
                continue
            record = self._check(signed)
            if now_s < _end_s(record):
                new[key] = (signed, record)
        if new:
            self._keep(new, now_s)
        return [record for _, record in new.values()]

    def _write(self, root: ClusterRoot, record: Record, now_s: float) -> Signed:
        signed = root.sign("record", msgspec.msgpack.encode(record))
        self._keep({_key(signed): (signed, record)}, now_s)
        return signed

    def _check(self, signed: Signed) -> Record:
        if len(signed.payload) > MAX_RECORD_BYTES:
            raise Malformed("ledger record")
        payload = self._anchor.verify("record", signed)
        try:
            return _decoder.decode(payload)
        except DECODE_ERRORS:
            raise Malformed("ledger record") from None

    def _keep(self, new: dict[bytes, _Entry], now_s: float) -> None:
        kept = _still_matter(self._records | new, now_s)
        if self._path is not None:
            # First on disk: what was revoked must not be valid again because the power failed.
            write_private(self._path, msgspec.msgpack.encode([signed for signed, _ in kept.values()]))
        self._take(kept)

    def _take(self, records: dict[bytes, _Entry]) -> None:
        self._records = records
        self._revoked_tokens = {entry.token_id for _, entry in records.values() if isinstance(entry, TokenRevoked)}
        self._removals = {
            NodeId(record.node): signed for signed, record in records.values() if isinstance(record, NodeRevoked)
        }
        self._next_end_s = min((_end_s(entry) for _, entry in records.values()), default=math.inf)
        self._fingerprint = None

    def _load(self, path: Path, now_s: float) -> None:
        try:
            stored = msgspec.msgpack.decode(read_private(path), type=list[Signed])
            # Signatures too: what a failing disk has altered, others would refuse, and all that is told with it.
            entries = {_key(signed): (signed, self._check(signed)) for signed in stored}
        except (*DECODE_ERRORS, Malformed, Forged):
            # Without it revoked tokens would be good again: better no start than that.
            raise UnusableFile(path, "the list of revocations is damaged; copy it from another member") from None
        self._take(_still_matter(entries, now_s))


_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
_records_decoder: msgspec.msgpack.Decoder[list[Signed]] = msgspec.msgpack.Decoder(
    Annotated[list[Signed], Meta(max_length=MAX_RECORDS)]
)


def encode_records(records: Iterable[Signed]) -> bytes:
    """Records as they travel between members."""
    return msgspec.msgpack.encode(list(records))


def decode_records(content: bytes) -> list[Signed]:
    """Raises Malformed. `Ledger.merge` checks the signatures."""
    try:
        return _records_decoder.decode(content)
    except DECODE_ERRORS:
        raise Malformed("ledger") from None


def _key(signed: Signed) -> bytes:
    # Of the payload alone: two members may sign the same record, and one of them is enough.
    return hashlib.sha256(signed.payload).digest()[:16]


def _still_matter(records: dict[bytes, _Entry], now_s: float) -> dict[bytes, _Entry]:
    return {key: entry for key, entry in records.items() if now_s < _end_s(entry[1])}


def _end_s(record: Record) -> float:
    """From when on a record has no effect."""
    match record:
        case TokenIssued(grant=grant):
            return grant.expires_at_s + MARGIN_S
        case _:
            return math.inf
