"""The `ayni` command: a client of a node's HTTP API, one function per verb."""

from __future__ import annotations

from cli.app import main

__all__ = ["main"]
