from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from node.daemon_file import (
    daemon_file,
    is_running,
    read_daemon_record,
    remove_daemon_record,
    write_daemon_record,
)


def test_a_daemon_is_found_by_its_port_and_only_its_user_can_read_how(tmp_path: Path) -> None:
    state = tmp_path / "state"
    record = write_daemon_record(state, host="127.0.0.1", port=11434, version="1", key="k")
    assert record.pid == os.getpid()
    assert read_daemon_record(state, 11434) == record
    assert read_daemon_record(state, 11435) is None
    assert daemon_file(state, 11434).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in state.iterdir()] == ["daemon-11434.json"]


def test_a_process_counts_only_with_its_own_start_time(tmp_path: Path) -> None:
    record = write_daemon_record(tmp_path, host="127.0.0.1", port=1, version="1", key="k")
    assert is_running(record)
    assert not is_running(msgspec.structs.replace(record, started_at=record.started_at - 60))
    assert not is_running(msgspec.structs.replace(record, pid=2**22 + 1))


def test_a_file_that_is_no_record_is_none(tmp_path: Path) -> None:
    for content in (b"", b"{}", b"[" * 10_000, b'{"pid": "x"}', b"\xff"):
        daemon_file(tmp_path, 1).write_bytes(content)
        assert read_daemon_record(tmp_path, 1) is None


def test_a_daemon_takes_back_only_its_own_record(tmp_path: Path) -> None:
    old = write_daemon_record(tmp_path, host="127.0.0.1", port=1, version="1", key="k")
    daemon_file(tmp_path, 1).write_bytes(msgspec.json.encode(msgspec.structs.replace(old, pid=old.pid + 1)))
    remove_daemon_record(tmp_path, old)
    assert daemon_file(tmp_path, 1).exists()
    newer = write_daemon_record(tmp_path, host="127.0.0.1", port=1, version="1", key="k")
    remove_daemon_record(tmp_path, newer)
    assert not daemon_file(tmp_path, 1).exists()


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(msgspec.json, "encode", full)
    with pytest.raises(OSError, match="No space"):
        write_daemon_record(tmp_path, host="127.0.0.1", port=1, version="1", key="k")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_daemon_left_half_written_is_replaced(tmp_path: Path) -> None:
    daemon_file(tmp_path, 1).with_suffix(".partial").write_bytes(b"half")
    write_daemon_record(tmp_path, host="127.0.0.1", port=1, version="1", key="k")
    assert list(tmp_path.iterdir()) == [daemon_file(tmp_path, 1)]
