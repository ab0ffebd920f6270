"""Remembered members: whole or not at all, ours alone, and never a reason not to start."""

from __future__ import annotations

import stat
from pathlib import Path

from node.identity import NodeId
from node.peers import AddressBook, MemberRecord

RECORDS = (
    MemberRecord(node=NodeId("00112233445566aa"), name="desk", addresses=("10.0.0.2:11435", "[fe80::1]:11435")),
    MemberRecord(node=NodeId("00112233445566bb")),
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    AddressBook(tmp_path / "cluster").write(RECORDS)
    assert AddressBook(tmp_path / "cluster").read() == RECORDS


def test_the_file_is_private_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    book = AddressBook(tmp_path)
    book.write(RECORDS)
    book.write(RECORDS[:1])
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_missing_or_damaged_file_is_an_empty_book(tmp_path: Path) -> None:
    assert AddressBook(tmp_path).read() == ()
    for content in (b"", b"[{]", b'[{"node": 3}]', b"\xff\xfe", b'["\xff"]', b'[{"x": ' + b"[" * 2500, b'{"a": 1}'):
        (tmp_path / "members.json").write_bytes(content)
        assert AddressBook(tmp_path).read() == ()
