"""Folders of the user's own: what is kept in them is nobody else's to read."""

from __future__ import annotations

from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make the folder and whatever is missing above it, closed to other users; what is there stays as it is.

    Raises: OSError.
    """
    if not folder.is_dir():
        make_private_folder(folder.parent)  # `mkdir(parents=True)` would leave these open
        folder.mkdir(mode=0o700, exist_ok=True)
