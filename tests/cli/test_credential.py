"""What the command proves itself with, and to whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.credential import credential
from node.daemon_file import DaemonRecord, daemon_file, write_daemon_record
from node.setting_values import Address, parse_address


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a user whose daemon listens on port 11434 of one address in the LAN, and who has a token too."""
    write_daemon_record(tmp_path, host="192.168.1.5", port=11434, version="0", key="the key")
    monkeypatch.setenv("OLLAMA_API_KEY", " the token ")
    return tmp_path


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("127.0.0.1", "the key"),
        ("localhost:11434", "the key"),
        ("0.0.0.0", "the key"),
        ("[::1]:11434", "the key"),
        ("192.168.1.5", "the key"),
        ("192.168.1.6", ""),
        ("gpu-box:11434", ""),
        ("https://192.168.1.6:11434", "the token"),
        ("https://gpu-box", "the token"),
        ("https://127.0.0.1:11435", "the token"),
    ],
)
def test_only_this_machine_is_told_the_key(state: Path, address: str, sent: str) -> None:
    assert credential(parse_address(address), state) == sent


def test_without_either_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    assert credential(Address(), tmp_path / "none") == ""
    (tmp_path / "file").touch()
    assert credential(Address(), tmp_path / "file") == ""


def test_the_record_does_not_show_its_key(state: Path) -> None:
    record = DaemonRecord(pid=1, started_at=1, host="::1", port=1, version="0", key="the key")
    assert "the key" not in f"{record!r} {record}"
    assert daemon_file(state, 11434).stat().st_mode & 0o777 == 0o600
