from __future__ import annotations

from bench.tokens import measure, summarise


def test_every_kind_of_check_is_measured_and_judged() -> None:
    samples = measure(rounds=1)
    assert all(samples.values())
    rows = {row.measure: row for row in summarise(samples)}
    assert {name for name, row in rows.items() if row.goal} == {"token not seen before", "token seen before"}
    assert rows["token seen before"].ayni < rows["token not seen before"].ayni
    slow = summarise(samples | {"uncached": [201.0]})
    assert [row.met for row in slow if row.measure == "token not seen before"] == [False]
