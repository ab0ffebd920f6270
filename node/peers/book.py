"""The members that this node remembers over restarts: one small file, replaced whole."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec

from node.decoding import DECODE_ERRORS
from node.peers.membership import MAX_MEMBERS, MemberRecord

log = logging.getLogger(__name__)

MAX_BOOK_BYTES = 4 << 20
_decode = msgspec.json.Decoder(list[MemberRecord]).decode


class AddressBook:
    """`members.json` below the cluster's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "members.json"
        self._written: bytes | None = None

    def read(self) -> tuple[MemberRecord, ...]:
        """What was written last; nothing, where that is missing or damaged: discovery finds the members again."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BOOK_BYTES)
            return tuple(_decode(data)[:MAX_MEMBERS])
        except FileNotFoundError:
            return ()
        except (OSError, *DECODE_ERRORS) as error:
            log.warning("remembered members not read: %s", error)
            return ()

    def write(self, records: Sequence[MemberRecord]) -> None:
        """Remember these. Raises OSError."""
        data = msgspec.json.format(msgspec.json.encode(list(records)), indent=1)
        if data == self._written:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            partial.replace(self._path)
        finally:
            partial.unlink(missing_ok=True)
        self._written = data
