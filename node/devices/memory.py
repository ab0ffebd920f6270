"""How much RAM this process may use: the machine's, or less where a control group (container, unit) says so.

Linux bounds a process by its own group and by every group above it; both versions of the interface are read. What
a group uses includes file pages that the kernel drops when asked (`inactive_file`), so those count as free.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class Ram:
    """Bytes of RAM: all that can ever be used here, and what is free now."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class _Interface:
    """Names of one cgroup version's files."""

    limits: tuple[str, ...]
    usage: str
    droppable: str


_V2 = _Interface(("memory.max", "memory.high"), "memory.current", "inactive_file")
_V1 = _Interface(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def read_ram() -> Ram:
    """The RAM of this process, now."""
    import psutil  # the CLI imports this package for its types only

    memory = psutil.virtual_memory()
    return bounded_ram(Ram(memory.total, memory.available), Path("/"))


def bounded_ram(machine: Ram, root: Path) -> Ram:
    """The machine's RAM cut down to what the control groups leave; `root` is "/" (or a sample of it)."""
    total, free = machine.total_bytes, machine.free_bytes
    for interface, directories in _hierarchies(root):
        for directory in directories:
            limit = min((value for name in interface.limits if (value := _number(directory / name))), default=None)
            if limit is None or limit >= machine.total_bytes:
                continue
            used = _number(directory / interface.usage) or 0
            dropped = _stat(directory / "memory.stat", interface.droppable)
            total = min(total, limit)
            free = min(free, limit - max(0, used - dropped))
    return Ram(total, max(0, min(free, total)))


def _hierarchies(root: Path) -> list[tuple[_Interface, list[Path]]]:
    """For each memory hierarchy: its interface, and our group's directory followed by all above it."""
    own = _own_groups(_text(root / "proc/self/cgroup"))
    found = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            interface, group = _V2, own.get("")
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            interface, group = _V1, own.get("memory")
        else:
            continue
        mount = root / fields[4].lstrip("/")
        found.append((interface, _walk_up(mount, PurePosixPath(fields[3]), PurePosixPath(group or "/"))))
    return found


def _own_groups(text: str) -> dict[str, str]:
    """Our group's path by controller; "" is version 2."""
    groups = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            groups.update(dict.fromkeys(parts[1].split(","), parts[2]))
    return groups


def _walk_up(mount: Path, mounted: PurePosixPath, group: PurePosixPath) -> list[Path]:
    """Directories from our group up to the mount; only the mount where the group lies outside what is mounted."""
    if ".." in group.parts or not group.is_relative_to(mounted):
        return [mount]
    below = group.relative_to(mounted)
    directories = [mount.joinpath(*below.parts[:depth]) for depth in range(len(below.parts), -1, -1)]
    return [directory for directory in directories if directory.is_dir()]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _stat(path: Path, key: str) -> int:
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return 0
