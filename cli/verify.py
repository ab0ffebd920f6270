"""The verb verify: hash every stored file again, without a node, and name what is damaged."""

from __future__ import annotations

import sys

from cli.bars import ProgressBars
from cli.errors import CommandError
from cli.text import cell, human_bytes
from node.settings import Settings
from registry import Finding, ModelStore, RegistryError


def verify_store(settings: Settings, *, prune: bool = False) -> int:
    """Check the models folder of the settings; returns 1 where a model can't be used, else 0.

    Damage is named on stdout, one line each; blobs that nothing needs are only counted, as they harm nobody.
    With `prune` those are removed, unless they are so young that a model may be about to need them.
    """
    try:
        store = ModelStore(settings.models_dir, cache_dir=settings.cache_dir)
        try:
            findings = _verify(store)
            removed = len(store.prune()) if prune else 0
        finally:
            store.close()
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
        kept = f"; {removed} removed" if prune else " (ayni verify --prune removes those older than an hour)"
        print(f"{orphans} of them belong to no model{kept}", file=sys.stderr)
    if damaged:
        print("Replace a damaged file by creating or copying its model again", file=sys.stderr)
    return 1 if damaged else 0


def describe(finding: Finding) -> str:
    """One line: what is damaged, why, and whom it concerns."""
    models = f" (used by {', '.join(map(str, finding.models))})" if finding.models else ""
    return cell(f"{finding.kind}: {finding.subject}: {finding.detail}{models}")


def _verify(store: ModelStore) -> list[Finding]:
    """All findings but progress, which becomes a bar."""
    kept: list[Finding] = []
    with ProgressBars() as bars:
        advance, done_bytes = None, 0
        for finding in store.verify():
            advance = advance or bars.bar("verifying", finding.total_bytes)
            advance(finding.done_bytes - done_bytes)
            done_bytes = finding.done_bytes
            if finding.kind != "progress":
                kept.append(finding)
    return kept
