"""The daemon stays light: what only a runner or a probe needs is never imported by it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("gguf", "jinja2", "llama_cpp", "numpy", "prompt_toolkit", "ray", "rich")


def test_the_daemon_imports_nothing_heavy() -> None:
    code = (
        "import sys, api.app, api.serve, node.supervisor, registry, uvicorn.protocols.http.h11_impl\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_light_commands_do_not_pay_for_the_web_framework() -> None:
    code = "import sys, api; print([name for name in ('fastapi', 'pydantic', 'uvicorn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
