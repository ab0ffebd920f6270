from __future__ import annotations

import stat
from pathlib import Path

import pytest

from node.private_folder import make_private_folder


def test_what_is_missing_is_made_closed_to_others_and_what_is_there_stays(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir(mode=0o755)
    deep = own / ".ayni" / "logs"
    for _ in range(2):
        make_private_folder(deep)
        modes = [stat.S_IMODE(folder.stat().st_mode) for folder in (own, deep.parent, deep)]
        assert modes == [0o755, 0o700, 0o700]


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError):
            make_private_folder(folder)
