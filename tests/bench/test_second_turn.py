from __future__ import annotations

from bench.second_turn import Samples, summarise


def test_the_share_is_taken_per_conversation_before_the_median() -> None:
    ours = Samples([1.0, 2.0, 4.0], [0.05, 0.4, 0.2])
    theirs = Samples([1.0], [0.5])
    first, second = summarise("m", ours, theirs)
    assert (first.ayni, first.peer, first.met) == (2000.0, 1000.0, None)
    assert (second.ayni, second.peer, second.met) == (0.05, 0.5, True)
