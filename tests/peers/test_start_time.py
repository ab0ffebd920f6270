"""A daemon that starts after another one is the later one, whatever happened to the clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.cluster.start_time import FILE, start_time
from node.peers import Beat, Membership, WentUp
from node.peers.membership import BeatAnswer
from tests.support.clusters import ME, machine, node_id


def test_a_start_is_later_than_the_one_before_although_the_clock_was_set_back(tmp_path: Path) -> None:
    assert start_time(tmp_path, 1000.0) == 1000.0
    second = start_time(tmp_path, 400.0)
    assert 1000.0 < second < 1001.0
    assert second < start_time(tmp_path, 300.0) < 1001.0
    assert start_time(tmp_path, 2000.0) == 2000.0


@pytest.mark.parametrize("content", [b"", b"yesterday"])
def test_a_damaged_record_is_no_reason_not_to_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    (tmp_path / FILE).chmod(0o600)
    assert start_time(tmp_path, 1000.0) == 1000.0


def test_a_node_that_was_started_again_with_its_clock_set_back_is_taken_in_again(tmp_path: Path) -> None:
    members = Membership(ME)
    other = node_id("b")
    changes: list[object] = []
    for now_s, clock_s in ((1.0, 5000.0), (10.0, 200.0)):
        started_s = start_time(tmp_path, clock_s)
        beat = Beat(report=machine("b", started_at=started_s), addresses=("b:1",))
        answer = BeatAnswer(node=other, started_at=started_s, unix_s=clock_s)
        members.refused(other, "connection refused", now_s - 1)
        changes = members.heard(beat, now_s) + members.answered(answer, sent_unix_s=0, round_trip_s=0, now_s=now_s)
    assert changes == [WentUp(beat.report)]
