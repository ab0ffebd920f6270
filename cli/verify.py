"""The verb verify: hash every stored file again, without a node, and name what is damaged."""

from __future__ import annotations

import sys
from pathlib import Path

from cli.bars import ProgressBars
from cli.errors import CommandError
from cli.text import cell, human_bytes
from node.settings import Settings
from registry import Finding, ModelStore, RegistryError


def verify_store(settings: Settings) -> int:
    """Check the models folder of the settings; returns 1 where a model can't be used, else 0.

    Damage is named on stdout, one line each; blobs that nothing needs are only counted, as they harm nobody.
    """
    try:
        findings = _verify(settings.models_dir, settings.cache_dir)
    except (RegistryError, OSError) as error:
        raise CommandError(
            f"can't verify {settings.models_dir}: {getattr(error, 'strerror', None) or error}"
        ) from error
    damaged = [finding for finding in findings if finding.is_damage]
    for finding in damaged:
        print(describe(finding))
    checked = sum(finding.kind in ("sound", "corrupt", "orphaned") for finding in findings)
    size = human_bytes(findings[-1].total_bytes) if findings else "0 B"
    print(f"checked {checked} files, {size}, in {settings.models_dir}: {len(damaged) or 'nothing'} damaged")
    if orphans := sum(finding.kind == "orphaned" for finding in findings):
        print(f"{orphans} of them belong to no model", file=sys.stderr)
    if damaged:
        print("Replace a damaged file by creating or copying its model again", file=sys.stderr)
    return 1 if damaged else 0


def describe(finding: Finding) -> str:
    """One line: what is damaged, why, and whom it concerns."""
    models = f" (used by {', '.join(map(str, finding.models))})" if finding.models else ""
    return cell(f"{finding.kind}: {finding.subject}: {finding.detail}{models}")


def _verify(models_dir: Path, cache_dir: Path) -> list[Finding]:
    """All findings but progress, which becomes a bar."""
    store = ModelStore(models_dir, cache_dir=cache_dir)
    kept: list[Finding] = []
    try:
        with ProgressBars() as bars:
            advance, done_bytes = None, 0
            for finding in store.verify():
                advance = advance or bars.bar("verifying", finding.total_bytes)
                advance(finding.done_bytes - done_bytes)
                done_bytes = finding.done_bytes
                if finding.kind != "progress":
                    kept.append(finding)
    finally:
        store.close()
    return kept
