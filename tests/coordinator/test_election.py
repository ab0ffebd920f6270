from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.election import Alone, Claim, Decision, Election, Follow, Form, Timing, Wait, rank
from coordinator.view import NodeReport
from node.identity import NodeId
from tests.support.clusters import machine, node_id

A, B, C = node_id("a"), node_id("b"), node_id("c")
STEP_S = 0.5


def test_the_steadiest_linux_machine_is_preferred_and_the_operator_overrules() -> None:
    reports = [
        machine("a", platform="darwin", started_at=1.0),
        machine("b", started_at=9.0),
        machine("c", started_at=5.0),
        machine("d", started_at=2.0, on_battery=True),
        machine("e", started_at=20.0, head_preference=1),
        machine("f", started_at=8.0, ready_at=3.0),
    ]
    assert "".join(report.name for report in sorted(reports, key=rank)) == "efcbda"


@dataclass
class Member:
    """A machine: what it decides it does at once, save that its Ray may refuse to start."""

    report: NodeReport
    election: Election
    can_form: bool = True
    decision: Decision = field(default_factory=Wait)

    def act(self, decision: Decision, now_s: float) -> None:
        self.decision = decision
        match decision:
            case Follow(claim):
                assert claim.generation >= self.report.generation, "nobody goes back"
                self.report = replace(
                    self.report, generation=claim.generation, follows=claim.head, head=claim.head == self.report.node
                )
            case Form(generation) if self.can_form:
                self.report = replace(self.report, generation=generation, follows=self.report.node, head=True)
            case Form():
                self.election.could_not_form(now_s)
            case _:
                pass
        self.report = replace(self.report, head_failed=self.election.has_failed(now_s))


class Net:
    """Members that hear each other's last reports, except across cuts."""

    def __init__(self, reports: list[NodeReport], timing: Timing | None = None) -> None:
        timing = timing or Timing()
        self.members = {r.node: Member(r, Election(r.node, timing)) for r in reports}
        self.cut: set[frozenset[NodeId]] = set()
        self.down: set[NodeId] = set()
        self.now = 100.0
        self.formed: list[tuple[int, NodeId]] = []

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            heard = {node: member.report for node, member in self.members.items() if node not in self.down}
            for node in sorted(heard):
                seen = {n: r for n, r in heard.items() if n == node or frozenset((n, node)) not in self.cut}
                member = self.members[node]
                if member.report.follows not in seen:
                    member.report = seen[node] = replace(member.report, follows=None)
                decision = member.election.decide(seen, self.now)
                if isinstance(decision, Form) and member.can_form:
                    self.formed.append((decision.generation, node))
                member.act(decision, self.now)

    def separate(self, *groups: str) -> None:
        side = {node_id(letter): number for number, group in enumerate(groups) for letter in group}
        self.cut = {
            frozenset((one, other)) for one in side for other in side if one != other and side[one] != side[other]
        }

    def stop(self, letter: str) -> None:
        self.down.add(node_id(letter))

    def start_again(self, letter: str) -> None:
        """The machine comes back as after a reboot: it only remembers the highest generation, and says so."""
        node = node_id(letter)
        old = self.members[node]
        highest = old.election.highest
        report = replace(old.report, generation=highest, follows=None, head=False, started_at=self.now)
        self.members[node] = Member(report, Election(node, old.election.timing, highest=old.election.highest))
        self.down.discard(node)

    def claim_of(self, letter: str) -> tuple[int, str]:
        report = self.members[node_id(letter)].report
        return report.generation, (report.follows or " ")[0]


def net(letters: str = "abc", timing: Timing | None = None) -> Net:
    return Net([machine(letter, started_at=float(at + 1)) for at, letter in enumerate(letters)], timing)


def test_a_machine_alone_forms_nothing() -> None:
    it = net("a")
    it.run(10)
    assert it.members[A].decision == Alone()
    assert it.formed == []


def test_all_agree_on_one_head_within_seconds() -> None:
    it = net()
    it.run(4)
    assert [it.claim_of(letter) for letter in "abc"] == [(1, "a")] * 3
    assert it.formed == [(1, A)]


def test_a_steadier_machine_that_comes_later_does_not_take_over() -> None:
    it = net("bc")
    it.run(5)
    it.members[A] = Member(machine("a", started_at=0.5), Election(A))
    it.run(10)
    assert [it.claim_of(letter) for letter in "abc"] == [(1, "b")] * 3


def test_a_lost_head_is_replaced_within_seconds_and_follows_when_it_returns() -> None:
    it = net()
    it.run(5)
    it.stop("a")
    it.run(3)
    assert [it.claim_of(letter) for letter in "bc"] == [(2, "b")] * 2
    it.start_again("a")
    it.run(3)
    assert [it.claim_of(letter) for letter in "abc"] == [(2, "b")] * 3


def test_a_head_that_was_cut_off_gives_up_its_claim_to_the_higher_one() -> None:
    it = net()
    it.run(5)
    it.separate("a", "bc")
    it.run(5)
    assert it.claim_of("a") == (1, "a")
    assert it.claim_of("b") == (2, "b")
    it.separate("abc")
    it.run(5)
    assert [it.claim_of(letter) for letter in "abc"] == [(2, "b")] * 3


def test_who_hears_the_head_later_than_others_waits_for_it() -> None:
    it = net()
    it.run(5)
    it.separate("ac", "b")
    it.run(5)
    # At first it hears the other one only.
    it.cut = {frozenset((A, B))}
    it.run(5)
    it.cut = set()
    it.run(3)
    assert [it.claim_of(letter) for letter in "abc"] == [(1, "a")] * 3
    assert it.formed == [(1, A)]


def test_nobody_waits_longer_than_is_told_for_a_head_that_is_heard_by_nobody() -> None:
    it = net()
    it.run(5)
    it.stop("a")
    it.run(4)
    assert [it.claim_of(letter) for letter in "bc"] == [(2, "b")] * 2


def test_a_member_that_was_cut_off_returns_without_disturbing_the_rest() -> None:
    it = net("abcde")
    it.run(5)
    it.separate("abc", "de")
    it.run(20)
    it.separate("abcde")
    it.run(5)
    assert it.formed == [(1, A)]
    assert {it.claim_of(letter) for letter in "abcde"} == {(1, "a")}


def test_a_minority_that_stays_alone_for_long_goes_on_by_itself() -> None:
    it = net("abcde")
    it.run(5)
    for letter in "abc":
        it.stop(letter)
    it.run(80)
    assert {it.claim_of(letter) for letter in "de"} == {(2, "d")}


def test_nobody_waits_for_members_that_were_removed() -> None:
    it = net("abcde")
    it.run(5)
    for letter in "abc":
        it.stop(letter)
    for member in it.members.values():
        member.election.forget(it.down)
    it.run(4)
    assert {it.claim_of(letter) for letter in "de"} == {(2, "d")}


@pytest.mark.parametrize("restarted", [False, True])
def test_who_is_left_of_a_newer_generation_is_heard_and_the_next_one_is_formed_at_once(restarted: bool) -> None:
    it = net("abcd")
    it.run(5)
    it.separate("ab", "cd")
    it.run(5)
    assert it.claim_of("d") == (2, "c")
    it.stop("c")
    if restarted:
        it.stop("d")
        it.start_again("d")
    it.run(5)
    it.separate("abcd")
    it.run(5)
    assert {it.claim_of(letter) for letter in "abd"} == {(3, "a")}
    it.start_again("c")
    it.run(5)
    assert {it.claim_of(letter) for letter in "abcd"} == {(3, "a")}
    assert [generation for generation, _ in it.formed] == [1, 2, 3]


def test_one_of_two_is_enough_when_a_third_joins() -> None:
    it = net("ab")
    it.run(5)
    it.stop("a")
    it.members[C] = Member(machine("c", started_at=50.0), Election(C))
    it.run(4)
    assert [it.claim_of(letter) for letter in "bc"] == [(2, "b")] * 2


def test_a_node_that_can_not_form_is_passed_over() -> None:
    it = net(timing=Timing(forming_s=5.0))
    it.members[A].can_form = False
    it.run(12)
    assert [it.claim_of(letter) for letter in "abc"] == [(1, "b")] * 3


def test_who_could_not_form_says_so_and_the_next_one_does_not_wait_to_see_it() -> None:
    it = net(timing=Timing(settle_s=1.0, forming_s=60.0))
    it.members[A].can_form = False
    it.run(5)
    assert [it.claim_of(letter) for letter in "abc"] == [(1, "b")] * 3


def test_where_nobody_could_form_all_are_asked_again() -> None:
    it = net(timing=Timing(forming_s=5.0, forgiven_s=10_000.0))
    for member in it.members.values():
        member.can_form = False
    it.run(20)
    it.members[B].can_form = True
    it.run(40)
    assert {it.claim_of(letter)[1] for letter in "abc"} == {"b"}


def test_who_must_not_be_head_never_is() -> None:
    it = Net([machine(letter, head_preference=-1) for letter in "abc"])
    it.run(200)
    assert it.formed == []


def test_a_short_glimpse_of_another_claim_moves_nobody() -> None:
    it = net(timing=Timing(settle_s=2.0))
    it.run(8)
    before = it.members[B].report
    other = replace(machine("d"), generation=9, head=True, follows=node_id("d"))
    heard = {n: m.report for n, m in it.members.items()}
    assert it.members[B].election.decide(heard | {other.node: other}, it.now) == Follow(Claim(1, A))
    assert it.members[B].election.decide(heard, it.now + 1) == Follow(Claim(1, A))
    assert it.members[B].report == before


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["separate", "heal", "stop", "start"]),
            st.permutations("abcde"),
            st.integers(1, 4),
            st.sampled_from([0.5, 2.0, 6.0, 90.0]),
        ),
        max_size=10,
    )
)
def test_whatever_happened_all_who_are_left_agree_once_it_is_quiet(
    steps: list[tuple[str, tuple[str, ...], int, float]],
) -> None:
    it = net("abcde")
    it.run(5)
    for what, letters, size, seconds in steps:
        match what:
            case "separate":
                it.separate("".join(letters[:size]), "".join(letters[size:]))
            case "heal":
                it.cut.clear()
            case "stop":
                it.stop(letters[0])
            case "start" if node_id(letters[0]) in it.down:
                it.start_again(letters[0])
        it.run(seconds)
    it.cut.clear()
    it.run(90)
    alive = [letter for letter in "abcde" if node_id(letter) not in it.down]
    if len(alive) > 1:
        assert len({it.claim_of(letter) for letter in alive}) == 1
        generation, head = it.claim_of(alive[0])
        assert head in alive
        assert it.members[node_id(head)].report.head
        assert sum(it.members[node_id(letter)].report.head for letter in alive) == 1
        formed = it.formed.copy()
        it.run(60)
        assert it.formed == formed
        assert all(it.members[node_id(letter)].election.highest >= generation for letter in alive)
    # A claim is never made twice.
    assert len(set(it.formed)) == len(it.formed)


@pytest.mark.parametrize("highest", [0, 41])
def test_a_new_generation_is_higher_than_any_ever_heard_of(highest: int) -> None:
    election = Election(A, highest=highest)
    nodes = {A: machine("a", started_at=1.0), B: machine("b", started_at=2.0, generation=17)}
    election.decide(nodes, 0.0)
    assert election.decide(nodes, 2.0) == Form(max(highest, 17) + 1)
