from __future__ import annotations

from dataclasses import replace

import pytest

from node.discovery import Advert, Myself, Sighting, judge, judge_all
from node.discovery.sighting import series
from node.identity import ClusterId, NodeId

ME, PEER, STRANGER = NodeId("0" * 16), NodeId("1" * 16), NodeId("2" * 16)
HOME, OFFICE = ClusterId("a" * 16), ClusterId("b" * 16)
ADVERT = Advert(
    node=PEER, node_name="box", cluster=HOME, cluster_name="home", port=11435, fingerprint="f" * 64, version="0.3.1"
)
SEEN = Sighting(instance="box-11111111", addresses=("192.0.2.7",), advert=ADVERT)
ALONE = Myself(version="0.3.0")
MEMBER = Myself(version="0.3.0", node=ME, cluster=HOME, members={PEER: "box"})


@pytest.mark.parametrize(
    ("sighting", "me", "standing", "reason"),
    [
        (SEEN, ALONE, "joinable", "to enter 'home'"),
        (SEEN, MEMBER, "member", "a member of this cluster"),
        (SEEN, replace(MEMBER, members={}), "member", "its certificate decides"),
        (SEEN, replace(MEMBER, node=PEER), "this machine", "that is us"),
        (SEEN, replace(MEMBER, cluster=OFFICE), "other cluster", "it is in another cluster, 'home'"),
        (SEEN, replace(MEMBER, removed=frozenset({PEER})), "not joinable", "it was removed from this cluster"),
        (SEEN, replace(ALONE, version="0.4.0"), "not joinable", "it runs Ayni 0.3.1, this machine 0.4.0"),
        (replace(SEEN, addresses=()), ALONE, "not joinable", "no address"),
        (replace(SEEN, advert=None, problem="fp is malformed"), ALONE, "not joinable", "fp is malformed"),
    ],
)
def test_a_sighting_is_judged_with_its_reason(sighting: Sighting, me: Myself, standing: str, reason: str) -> None:
    finding = judge(sighting, me)
    assert finding.standing == standing
    assert reason in finding.reason


def test_findings_are_sorted_by_what_can_be_done_about_them() -> None:
    bad = Sighting(instance="a", problem="fp is malformed")
    assert [finding.standing for finding in judge_all([bad, SEEN], ALONE)] == ["joinable", "not joinable"]


@pytest.mark.parametrize(("version", "expected"), [("0.3.1", "0.3"), ("1.4.2", "1"), ("2", "2"), ("0", "0.")])
def test_machines_work_together_within_a_series(version: str, expected: str) -> None:
    assert series(version) == expected
