from __future__ import annotations

import subprocess
import sys

from node.ray_session import RayVersions, ray_versions

HERE = RayVersions(ray="2.60.0", python="3.11.7", system="linux")


def test_only_linux_with_ray_can_be_the_head() -> None:
    assert HERE.can_be_head
    assert not RayVersions(ray="2.60.0", python="3.11.7", system="darwin").can_be_head
    assert not RayVersions(ray="", python="3.11.7", system="linux").can_be_head


def test_this_machine_has_versions() -> None:
    assert ray_versions().python == ".".join(map(str, sys.version_info[:3]))


def test_neither_the_control_plane_nor_anything_below_it_imports_ray() -> None:
    script = "import sys, coordinator.control, node.agent.actor; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=30).returncode == 0
