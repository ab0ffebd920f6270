from __future__ import annotations

from pathlib import Path

import pytest

from node.devices import Ram, read_ram
from node.devices.memory import bounded_ram

GIB = 1 << 30
MACHINE = Ram(64 * GIB, 50 * GIB)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {
    "proc/self/cgroup": "0::/user.slice/app.scope\n",
    "proc/self/mountinfo": "25 30 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
    "sys/fs/cgroup/user.slice/app.scope/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/app.scope/memory.high": "max\n",
    "sys/fs/cgroup/user.slice/memory.max": f"{8 * GIB}\n",
    "sys/fs/cgroup/user.slice/memory.current": f"{5 * GIB}\n",
    "sys/fs/cgroup/user.slice/memory.stat": f"anon 1\ninactive_file {GIB}\nactive_file 5\n",
}


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert bounded_ram(MACHINE, tmp_path) == MACHINE


def test_a_limit_of_a_group_above_ours_holds_and_droppable_file_pages_are_free(tmp_path: Path) -> None:
    assert bounded_ram(MACHINE, write(tmp_path, V2)) == Ram(8 * GIB, 4 * GIB)


def test_the_tightest_group_decides(tmp_path: Path) -> None:
    own = "sys/fs/cgroup/user.slice/app.scope/"
    files = V2 | {own + "memory.high": f"{2 * GIB}", own + "memory.current": f"{GIB // 2}"}
    assert bounded_ram(MACHINE, write(tmp_path, files)) == Ram(2 * GIB, 3 * GIB // 2)


def test_a_group_that_uses_more_than_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = V2 | {"sys/fs/cgroup/user.slice/memory.current": f"{20 * GIB}"}
    assert bounded_ram(MACHINE, write(tmp_path, files)) == Ram(8 * GIB, 0)


def test_a_limit_above_what_the_machine_has_is_none(tmp_path: Path) -> None:
    files = V2 | {"sys/fs/cgroup/user.slice/memory.max": f"{900 * GIB}"}
    assert bounded_ram(MACHINE, write(tmp_path, files)) == MACHINE


def test_inside_a_container_the_groups_of_the_host_are_not_searched(tmp_path: Path) -> None:
    """Without a cgroup namespace the mount shows the container's own group at the top."""
    files = {
        "proc/self/cgroup": "0::/docker/abc\n",
        "proc/self/mountinfo": "25 30 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
        "sys/fs/cgroup/memory.max": f"{GIB}",
        "sys/fs/cgroup/memory.current": "0",
    }
    assert bounded_ram(MACHINE, write(tmp_path, files)) == Ram(GIB, GIB)


@pytest.mark.parametrize("own", ["/", "/../../other", "/gone"])
def test_a_group_that_is_not_below_the_mount_leaves_the_mount_itself(tmp_path: Path, own: str) -> None:
    files = {
        "proc/self/cgroup": f"0::{own}\n",
        "proc/self/mountinfo": "25 30 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
        "sys/fs/cgroup/memory.max": f"{GIB}",
        "sys/fs/cgroup/memory.current": f"{GIB // 4}",
    }
    assert bounded_ram(MACHINE, write(tmp_path, files)) == Ram(GIB, GIB - GIB // 4)


def test_version_one_is_read_where_memory_is_mounted(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/box/inner/"
    files = {
        "proc/self/cgroup": "9:name=systemd:/x\n4:cpu,memory:/box/inner\n0::/\n",
        "proc/self/mountinfo": "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
        "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\nnonsense\n",
        group + "memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{6 * GIB}",
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{3 * GIB}",
        "sys/fs/cgroup/memory/box/memory.stat": f"inactive_file 0\ntotal_inactive_file {2 * GIB}\n",
    }
    assert bounded_ram(MACHINE, write(tmp_path, files)) == Ram(6 * GIB, 5 * GIB)


def test_this_machine_has_memory() -> None:
    ram = read_ram()
    assert 0 < ram.free_bytes <= ram.total_bytes
