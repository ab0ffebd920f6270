from __future__ import annotations

import subprocess
import sys

import pytest

from node.ray_session import RayVersions, ray_versions, why_apart

HERE = RayVersions(ray="2.60.0", python="3.11.7", system="linux")


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        (HERE, None),
        (RayVersions(ray="2.60.0", python="3.11.2", system="darwin"), None),
        (
            RayVersions(ray="2.61.0", python="3.11.7", system="linux"),
            "this machine has Ray 2.60.0, the other 2.61.0; install the same version",
        ),
        (
            RayVersions(ray="2.60.0", python="3.12.1", system="linux"),
            "this machine has Python 3.11, the other 3.12; they have to be equal",
        ),
        (RayVersions(ray="", python="3.11.7", system="linux"), "Ray isn't installed on the other machine"),
    ],
)
def test_machines_that_can_not_be_in_one_ray_cluster_are_told_exactly_why(theirs: RayVersions, why: str | None) -> None:
    assert why_apart(HERE, theirs) == why


def test_only_linux_with_ray_can_be_the_head() -> None:
    assert HERE.can_be_head
    assert not RayVersions(ray="2.60.0", python="3.11.7", system="darwin").can_be_head
    assert not RayVersions(ray="", python="3.11.7", system="linux").can_be_head


def test_this_machine_has_versions() -> None:
    assert ray_versions().python == ".".join(map(str, sys.version_info[:3]))


def test_neither_the_control_plane_nor_anything_below_it_imports_ray() -> None:
    script = "import sys, coordinator.control, node.agent.actor; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=30).returncode == 0
