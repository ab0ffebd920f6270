from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from bench import peers
from bench.peers import PeerError, Pin, read_pin

HASH = "ab" * 32


def test_the_pin_is_read_from_a_compiled_requirements_file() -> None:
    lock = f"jinja2==3.1.6 \\\n    --hash=sha256:{'0' * 64}\nllama-cpp-python==0.3.36 \\\n    --hash=sha256:{HASH}\n"
    pin = read_pin(lock)
    assert pin == Pin("0.3.36", HASH)
    assert pin.file_name == "llama_cpp_python-0.3.36.tar.gz"


@pytest.mark.parametrize(
    "lock",
    [
        "",
        "llama-cpp-python==0.3.36\n",
        f"llama-cpp-python==0.3.36 \\\n    --hash=sha256:{HASH} \\\n    --hash=sha256:{'0' * 64}\n",
    ],
)
def test_a_lock_without_exactly_one_hash_is_refused(lock: str) -> None:
    with pytest.raises(PeerError, match="must pin"):
        read_pin(lock)


def test_a_cached_archive_with_other_bytes_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text(f"llama-cpp-python==0.3.36 \\\n    --hash=sha256:{HASH}\n")
    (tmp_path / "llama_cpp_python-0.3.36.tar.gz").write_bytes(b"something else")
    with pytest.raises(PeerError, match="has SHA-256"):
        peers.ensure_peers(lock, tmp_path)


def test_only_llama_cpp_is_unpacked_and_then_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in ("vendor/llama.cpp/CMakeLists.txt", "llama_cpp/llama.py"):
            tar.addfile(tarfile.TarInfo(f"llama_cpp_python-1.0/{name}"))
    digest = hashlib.sha256(archive.getvalue()).hexdigest()
    (tmp_path / "llama_cpp_python-1.0.tar.gz").write_bytes(archive.getvalue())
    lock = tmp_path / "lock"
    lock.write_text(f"llama-cpp-python==1.0 \\\n    --hash=sha256:{digest}\n")
    built: list[Path] = []
    monkeypatch.setattr(peers, "_build", built.append)

    found = [peers.ensure_peers(lock, tmp_path) for _ in range(2)]

    source = tmp_path / "llama.cpp-1.0"
    assert built == [source]
    assert {path.name for path in source.iterdir()} == {"CMakeLists.txt", "built"}
    assert found[0] == found[1] == peers.Peers(
        source / "build" / "bin" / "llama-server", source / "build" / "bin" / "llama-batched-bench"
    )  # fmt: skip
