"""Whether this machine, and another one, can be in a Ray cluster together; said before Ray would hang or refuse.

Ray wants the very same version of itself and the same minor version of Python everywhere. Only Linux may be the
head; macOS is experimental upstream. Nothing here imports ray.
"""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from msgspec import Struct


class RayVersions(Struct, frozen=True, kw_only=True):
    """What has to agree. `ray` is "" where it isn't installed; `system` is "linux" or "darwin"."""

    ray: str
    python: str
    system: str

    @property
    def python_minor(self) -> str:
        """ "3.11" of "3.11.7"."""
        return ".".join(self.python.split(".")[:2])

    @property
    def can_be_head(self) -> bool:
        """Ray supports its control store on Linux only."""
        return bool(self.ray) and self.system == "linux"


@cache
def ray_versions() -> RayVersions:
    """This machine's."""
    try:
        ray = version("ray")
    except PackageNotFoundError:
        ray = ""
    return RayVersions(ray=ray, python=platform.python_version(), system=sys.platform)
