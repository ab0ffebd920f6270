"""Who is there: pure decisions over beats, answers and silence, with time passed in."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.identity import NodeId
from node.peers import Beat, Change, Membership, Reported, WentDown, WentUp
from node.peers.membership import BEAT_S, MAX_ADDRESSES, MAX_MEMBERS, SILENCE_LIMIT_S, SLOWEST_BEAT_S, BeatAnswer
from node.report import NodeReport

ME, OTHER, THIRD = NodeId("me"), NodeId("other"), NodeId("third")


def report(sequence: int = 1, *, node: NodeId = OTHER, started_at: float = 100.0) -> NodeReport:
    return NodeReport(node=node, name="far", started_at=started_at, sequence=sequence)


def beat(sequence: int = 1, *, started_at: float = 100.0, leaving: bool = False, node: NodeId = OTHER) -> Beat:
    return Beat(
        report=report(sequence, node=node, started_at=started_at), addresses=("10.0.0.2:11435",), leaving=leaving
    )


def answered(members: Membership, now_s: float, *, node: NodeId = OTHER, started_at: float = 100.0) -> list[Change]:
    answer = BeatAnswer(node=node, started_at=started_at, unix_s=1000.0)
    return members.answered(answer, sent_unix_s=1000.0, round_trip_s=0.0, now_s=now_s)


def up() -> Membership:
    """A membership in which the other node is up at time 0."""
    members = Membership(ME)
    members.look(0.0)
    members.heard(beat(1), 0.0)
    answered(members, 0.0)
    assert members.is_up(OTHER)
    return members


def test_a_member_is_up_once_it_was_heard_and_has_answered() -> None:
    members = Membership(ME)
    assert members.heard(beat(1), 0.0) == []
    assert not members.is_up(OTHER)
    assert answered(members, 0.1) == [WentUp(report(1))]
    assert members.heard(beat(2), 0.5) == [Reported(report(2))]


def test_one_that_we_hear_but_that_does_not_answer_is_not_up_and_neither_is_the_other_way_round() -> None:
    for heard in (True, False):
        members = up()
        lost: list[Change] = []
        for step in range(1, 30):
            now_s = step * BEAT_S / 2
            changes = members.heard(beat(1 + step), now_s) if heard else answered(members, now_s)
            lost += [change for change in (*changes, *members.look(now_s)) if isinstance(change, WentDown)]
        assert [change.node for change in lost] == [OTHER]
        assert not members.is_up(OTHER)


def test_silence_beyond_the_limit_and_not_before_it_is_a_loss() -> None:
    members = up()
    for tenth in range(1, 21):
        assert members.look(tenth / 10) == []
    assert members.look(2.1) == [WentDown(OTHER, "silent for 2.1 s")]
    assert members.look(2.2) == []


def test_a_refused_connection_is_a_loss_at_once() -> None:
    members = up()
    assert members.refused(OTHER, "refused", 0.3) == [WentDown(OTHER, "refused")]
    assert members.refused(OTHER, "refused", 0.4) == []


def test_a_node_that_leaves_is_down_until_it_is_heard_again() -> None:
    members = up()
    assert members.heard(beat(2, leaving=True), 0.5) == [WentDown(OTHER, "it is leaving")]
    assert answered(members, 0.6) == []
    assert members.heard(beat(1, started_at=200.0), 0.7) == [WentUp(report(1, started_at=200.0))]


def test_a_restart_loses_what_the_old_process_did_even_if_nobody_noticed_its_absence() -> None:
    members = up()
    new = report(1, started_at=200.0)
    assert members.heard(beat(1, started_at=200.0), 0.5) == [
        WentDown(OTHER, "its daemon was restarted"),
        WentUp(new),
    ]
    assert answered(members, 0.6, started_at=200.0) == []


def test_an_answer_of_a_new_process_says_that_the_old_one_is_gone() -> None:
    members = up()
    assert answered(members, 0.5, started_at=200.0) == [WentDown(OTHER, "its daemon was restarted")]


def test_an_overtaken_beat_changes_nothing_but_proves_life() -> None:
    members = up()
    members.heard(beat(5), 1.0)
    assert members.heard(beat(3), 1.5) == []
    member = members.get(OTHER)
    assert member is not None
    assert (member.report, member.heard_s) == (report(5), 1.5)


def test_our_own_sleep_is_not_taken_for_the_others_silence() -> None:
    members = up()
    assert members.look(3600.0) == []
    assert members.look(3601.9) == []
    members.heard(beat(2), 3601.0)
    answered(members, 3601.0)
    assert members.look(3602.5) == []
    for step in range(30):
        changes = members.look(3602.5 + step / 10)
        if changes:
            break
    assert isinstance(changes[0], WentDown)


def test_after_a_sleep_of_this_machine_nobody_is_up_until_heard_and_answered_anew() -> None:
    members = up()
    assert members.slept(0.5) == [WentDown(OTHER, "this machine slept")]
    assert members.slept(0.6) == []
    assert answered(members, 0.7) == []
    assert members.heard(beat(2), 0.8) == [WentUp(report(2))]


def test_a_clock_that_differs_is_noticed() -> None:
    members = up()
    answer = BeatAnswer(node=OTHER, started_at=100.0, unix_s=1120.5)
    members.answered(answer, sent_unix_s=1000.0, round_trip_s=1.0, now_s=1.0)
    member = members.get(OTHER)
    assert member is not None
    assert member.clock_offset_s == 120.0


def test_a_member_that_is_long_gone_is_called_less_and_less_often_but_always() -> None:
    members = up()
    members.refused(OTHER, "gone", 0.0)
    pauses = [members.pause_s(OTHER, now_s) for now_s in (0.0, 10.0, 30.0, 1e6)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (BEAT_S, SLOWEST_BEAT_S)


def test_what_is_remembered_is_bounded_and_newest_first() -> None:
    members = Membership(ME)
    for number in range(MAX_ADDRESSES + 5):
        members.remember(OTHER, addresses=(f"10.0.0.{number}:1",), now_s=0.0)
    member = members.get(OTHER)
    assert member is not None
    assert len(member.addresses) == MAX_ADDRESSES
    assert member.addresses[0] == f"10.0.0.{MAX_ADDRESSES + 4}:1"
    for number in range(MAX_MEMBERS + 5):
        members.remember(NodeId(f"n{number}"), now_s=0.0)
    assert len(members) == MAX_MEMBERS
    assert not members.remember(ME, now_s=0.0)


class MembershipMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: ups and downs alternate, and nobody stays up in silence."""

    def __init__(self) -> None:
        super().__init__()
        self.members = Membership(ME)
        self.now_s = 0.0
        self.sequence = 0
        self.is_up: dict[NodeId, bool] = {OTHER: False, THIRD: False}
        self.evidence: dict[NodeId, list[float]] = {OTHER: [-99.0, -99.0], THIRD: [-99.0, -99.0]}
        self.members.look(0.0)

    def take(self, changes: list[Change]) -> None:
        for change in changes:
            match change:
                case WentUp(told):
                    assert not self.is_up[told.node]
                    self.is_up[told.node] = True
                case WentDown(node):
                    assert self.is_up[node]
                    self.is_up[node] = False
                case Reported(told):
                    assert self.is_up[told.node]

    @rule(seconds=st.floats(0.01, 1.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.take(self.members.look(self.now_s))

    @rule(node=st.sampled_from([OTHER, THIRD]), boot=st.sampled_from([100.0, 200.0]), leaving=st.booleans())
    def beat_comes(self, node: NodeId, boot: float, leaving: bool) -> None:
        self.sequence += 1
        self.evidence[node][0] = self.now_s
        told = beat(self.sequence, node=node, started_at=boot, leaving=leaving)
        self.take(self.members.heard(told, self.now_s))

    @rule(node=st.sampled_from([OTHER, THIRD]), boot=st.sampled_from([100.0, 200.0]))
    def answer_comes(self, node: NodeId, boot: float) -> None:
        self.evidence[node][1] = self.now_s
        self.take(answered(self.members, self.now_s, node=node, started_at=boot))

    @rule(node=st.sampled_from([OTHER, THIRD]))
    def connection_is_refused(self, node: NodeId) -> None:
        self.take(self.members.refused(node, "refused", self.now_s))

    @rule(node=st.sampled_from([OTHER, THIRD]))
    def it_is_forgotten(self, node: NodeId) -> None:
        self.take(self.members.forget(node))

    @invariant()
    def what_was_told_is_what_is(self) -> None:
        for node, is_up in self.is_up.items():
            assert self.members.is_up(node) == is_up
            if is_up:
                assert self.now_s - min(self.evidence[node]) <= SILENCE_LIMIT_S + 1.0


MembershipMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMembershipMachine = MembershipMachine.TestCase
