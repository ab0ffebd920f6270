"""Cables are pulled, machines lost and daemons stopped; the tests build on each other, in this order."""

from __future__ import annotations

import pytest

from tests.cluster.asking import only_loaded_on, stream
from tests.cluster.real_nodes import await_all_up, until
from tests.lan.machines import LanNode

pytestmark = pytest.mark.timeout(180)


def test_a_stream_whose_machine_is_cut_off_goes_on_elsewhere_byte_for_byte(formed: list[LanNode]) -> None:
    a, b, c = formed
    only_loaded_on(b, formed)
    undisturbed, _ = stream(c)
    resumed, last = stream(c, at_chunk=8, then=b.machine.cut)
    try:
        assert resumed == undisturbed
        assert last["ayni"]["resumed"] == 1
        until(lambda: (a.states()["b"], b.states()) == ("lost", {"a": "lost", "b": "up", "c": "lost"}))
        alone, _ = stream(b)
        assert alone == undisturbed
    finally:
        b.machine.mend()
    await_all_up(formed)
