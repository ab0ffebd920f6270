"""What a member tells of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import pytest

from api.cluster.reporter import Reporter
from node.identity import NodeId


@pytest.mark.parametrize(("head", "preference"), [("auto", 0), ("prefer", 1), ("never", -1)])
def test_the_others_hear_whether_this_machine_is_to_be_head(
    head: Literal["auto", "prefer", "never"], preference: int
) -> None:
    nothing: Any = SimpleNamespace(loaded=list, loading=dict, prefill_bytes_s=0.0, decode_bytes_s=0.0)
    reporter = Reporter(
        NodeId("a" * 16),
        "a",
        version="1",
        ray_version="2",
        store=nothing,
        node=nothing,
        devices=nothing,
        footprints=nothing,
        token_use=dict,
        waiting=dict,
        started_at=0.0,
        head=head,
    )
    assert reporter.report().head_preference == preference
