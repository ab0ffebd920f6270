"""Cables are pulled, machines lost and daemons stopped; who is head, and of which generation, changes on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from cryptography import x509

from node.ray_session.processes import is_alive
from tests.cluster.asking import loaded_on, only_loaded_on, unload_everywhere
from tests.cluster.real_nodes import await_all_up, until
from tests.cluster.streams import Stream
from tests.lan.machines import RAY_LIMIT_S, LanCluster, LanNode, no_model_unloaded

pytestmark = pytest.mark.timeout(240)


def resumed_after(fault: Callable[[], object], *, asking: LanNode) -> int:
    """How often an answer in whose middle something happens goes on elsewhere; not a character may be amiss."""
    answer = Stream(asking).await_text()
    fault()
    answer.whole()
    return answer.resumed


def check_placement(cluster: LanCluster, on: LanNode) -> None:
    """The coordinator gives orders, and they are carried out: a machine that drains is to let go of what is idle."""
    only_loaded_on(on, cluster.nodes)
    orders = on.log.count("order Unload")
    on.ask("POST", f"/api/cluster/nodes/{on.name}/drain", {"drain": True})
    until(lambda: not loaded_on(on, "demo:latest"), what="the order to unload")
    assert on.log.count("order Unload") > orders
    on.ask("POST", f"/api/cluster/nodes/{on.name}/drain", {"drain": False})
    until(lambda: set(on.states().values()) == {"up"}, what="the end of the drain")


def downs(seen_by: LanNode, other: LanNode) -> int:
    """How often one has taken the other for lost."""
    return seen_by.log.count(f"node down node={other.ask('GET', '/api/cluster')['node']}")


def certified_addresses(node: LanNode) -> set[str]:
    path = node.ca.with_name("tls.crt")
    names = x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return {str(address) for address in names.value.get_values_for_type(x509.IPAddress)}


def test_a_machine_sees_the_cluster_by_multicast_and_joins_by_one_line(cluster: LanCluster, stranger: LanNode) -> None:
    stranger.settings["AYNI_RAY"] = "off"
    stranger.start()
    found = stranger.ask("GET", "/api/cluster/discover")["seen"]
    assert {(seen["name"], seen["cluster"]) for seen in found} == {("a", "home"), ("b", "home"), ("c", "home")}
    line = cluster.nodes[1].ask("POST", "/api/cluster/invitations", {})["invitation"]
    stranger.ask("POST", "/api/cluster/join", {"invitation": line})
    try:
        await_all_up([*cluster.nodes, stranger])
        Stream(stranger).whole()
    finally:
        stranger.ask("DELETE", "/api/cluster")
    until(lambda: all(set(node.states()) == {"a", "b", "c"} for node in cluster.nodes), what="parting")
    cluster.await_next_generation(cluster.nodes)  # it might know the token of this one
    assert stranger.stop() == 0


def test_one_machine_loads_a_model_however_many_are_asked_for_it_at_the_same_moment(cluster: LanCluster) -> None:
    unload_everywhere(cluster.head, cluster.nodes)
    cluster.await_placement()
    loads = sum(node.log.count("loaded model=demo:latest") for node in cluster.nodes)
    answers = [Stream(node, numbers=20) for node in cluster.nodes]
    for answer in answers:
        answer.whole()
    assert sum(node.log.count("loaded model=demo:latest") for node in cluster.nodes) == loads + 1


def test_a_model_that_is_asked_for_more_than_its_machine_can_answer_gains_another_one(cluster: LanCluster) -> None:
    asking, serving = cluster.head, cluster.workers[0]
    only_loaded_on(serving, cluster.nodes)
    cluster.await_placement()
    answers = [Stream(asking) for _ in range(24)]
    until(lambda: any("reason=busy" in node.log for node in cluster.nodes), 60, "the order of a second copy")
    until(lambda: len(loaded_on(asking, "demo:latest")) > 1, 60, "its load")
    for answer in answers:
        answer.whole()


def test_a_pinned_model_leaves_a_machine_that_is_drained_and_returns_to_it_afterwards(cluster: LanCluster) -> None:
    asking, serving = cluster.head, cluster.workers[0]
    only_loaded_on(serving, cluster.nodes)
    cluster.await_placement()
    asking.ask("POST", "/api/cluster/pins", {"model": "demo", "nodes": [serving.name]})
    until(lambda: serving.nodes()[serving.name]["resident"][0]["pinned"], what="the pin")
    asking.ask("POST", f"/api/cluster/nodes/{serving.name}/drain", {"drain": True})
    try:
        until(lambda: not serving.runners(), what="its leaving")
    finally:
        asking.ask("POST", f"/api/cluster/nodes/{serving.name}/drain", {"drain": False})
    until(lambda: any(model["pinned"] for model in asking.nodes()[serving.name]["resident"]), what="its return")
    asking.ask("DELETE", "/api/cluster/pins/demo")
    await_all_up(cluster.nodes)


def test_a_slow_and_lossy_link_makes_nobody_lost(cluster: LanCluster) -> None:
    a, b, c = cluster.nodes
    only_loaded_on(b, cluster.nodes)
    before, starts = (downs(a, b), downs(b, a), downs(a, c)), cluster.starts()
    with b.machine.bad_link(delay_s=0.05, loss=0.02):
        answers = [Stream(a), Stream(a), Stream(a)]
        for answer in answers:
            answer.whole()
    cluster.await_placement()
    after = downs(a, b), downs(b, a), downs(a, c)
    if after[2] > before[2]:
        pytest.skip("this machine is so busy that links without fault seem to be cut as well")
    assert (after, cluster.starts(), [answer.resumed for answer in answers]) == (before, starts, [0, 0, 0])


def test_a_stream_whose_machine_is_cut_off_goes_on_elsewhere_and_that_machine_serves_itself(
    cluster: LanCluster,
) -> None:
    asking, serving = cluster.head, cluster.workers[0]
    only_loaded_on(serving, cluster.nodes)
    with no_model_unloaded([serving]):
        answer, longer = Stream(asking), Stream(asking, numbers=700)
        answer.await_text()
        longer.await_text()
        serving.machine.cut()
        try:
            until(lambda: list(serving.states().values()) == ["up", "lost", "lost"], what="being alone")
            # It would be at the longer one for many seconds more.
            until(lambda: serving.nodes()[serving.name]["resident"][0]["active"] == 0, 4, "giving up what was asked")
            answer.whole()
            assert answer.resumed == 1
            assert asking.states()[serving.name] == "lost"
            Stream(serving).whole()
        finally:
            serving.machine.mend()
        await_all_up(cluster.nodes)
        cluster.await_placement()
    longer.whole()


def test_a_daemon_that_stands_still_is_replaced_and_comes_back(cluster: LanCluster) -> None:
    asking, serving = cluster.head, cluster.workers[0]
    only_loaded_on(serving, cluster.nodes)
    starts = cluster.starts()
    daemon = serving.process
    assert daemon is not None
    with no_model_unloaded([serving]):
        try:
            assert resumed_after(lambda: daemon.send_signal(signal.SIGSTOP), asking=asking) == 1
        finally:
            daemon.send_signal(signal.SIGCONT)
        await_all_up(cluster.nodes)
        cluster.await_placement()
    assert cluster.starts() == starts


@pytest.mark.parametrize("lost", ["gcs_server", "raylet"])
def test_a_part_of_ray_that_dies_is_back_in_the_same_generation(cluster: LanCluster, lost: str) -> None:
    hit = cluster.head if lost == "gcs_server" else cluster.workers[1]
    only_loaded_on(hit, cluster.nodes)
    starts = cluster.starts()
    with no_model_unloaded([hit]):
        resumed = resumed_after(lambda: os.kill(hit.ray_processes()[lost], signal.SIGKILL), asking=cluster.workers[0])
        assert resumed == 0
        until(lambda: cluster.starts() != starts, RAY_LIMIT_S, "another session")
        cluster.await_placement()
    assert cluster.starts() == [n + (node is hit) for n, node in zip(starts, cluster.nodes, strict=True)]
    check_placement(cluster, on=hit)


def test_when_the_heads_machine_is_gone_the_others_form_the_next_generation_and_it_follows_when_it_is_back(
    cluster: LanCluster,
) -> None:
    old, (asking, serving) = cluster.head, cluster.workers
    only_loaded_on(serving, cluster.nodes)
    with no_model_unloaded([serving]):
        assert resumed_after(old.switch_off, asking=asking) == 0
        cluster.await_next_generation([asking, serving])
    old.start()
    await_all_up(cluster.nodes)
    cluster.await_placement()
    assert old.ray_status()["role"] == "worker"
    check_placement(cluster, on=old)


def test_a_head_that_is_cut_off_is_replaced_and_what_it_has_of_the_old_generation_ends_when_it_is_back(
    cluster: LanCluster,
) -> None:
    old, others = cluster.head, cluster.workers
    only_loaded_on(old, cluster.nodes)
    stale = old.ray_processes()
    with no_model_unloaded([old]):
        old.machine.cut()
        try:
            cluster.await_next_generation(others)
            assert old.ray_status()["generation"] == cluster.generation - 1
            Stream(old).whole()
        finally:
            old.machine.mend()
        await_all_up(cluster.nodes)
        cluster.await_placement()
    assert old.ray_status()["role"] == "worker"
    assert not [name for name, pid in stale.items() if is_alive(pid)]
    check_placement(cluster, on=old)


def test_a_machine_with_a_new_address_is_certified_anew_and_its_stream_goes_on(cluster: LanCluster) -> None:
    asking, moving = cluster.workers
    only_loaded_on(moving, cluster.nodes)
    assert resumed_after(lambda: moving.move("198.18.77.33"), asking=asking) >= 1
    until(
        lambda: all(node.nodes()[moving.name]["address"] == "198.18.77.33:11435" for node in cluster.nodes),
        what="telling the new address",
    )
    await_all_up(cluster.nodes)
    until(lambda: "198.18.77.33" in certified_addresses(moving), what="a certificate with the new address")
    cluster.await_placement()


def test_a_machine_that_starts_without_a_network_takes_part_in_everything_once_it_has_one(cluster: LanCluster) -> None:
    last = cluster.workers[1]
    last.kill()
    last.machine.cut()
    try:
        last.start()
        until(lambda: last.ask("GET", "/api/cluster")["nodes_up"] == 1, what="being alone")
    finally:
        last.machine.mend()
    await_all_up(cluster.nodes)
    cluster.await_placement()
    check_placement(cluster, on=last)


def test_a_head_with_a_new_address_makes_way_for_the_next_generation(cluster: LanCluster) -> None:
    old = cluster.head
    only_loaded_on(old, cluster.nodes)
    with no_model_unloaded([old]):
        old.move("198.18.77.34")
        await_all_up(cluster.nodes)
        cluster.await_next_generation(cluster.nodes)
    assert "198.18.77.34" in certified_addresses(old)


def test_machines_that_know_no_address_of_each_other_meet_by_multicast(cluster: LanCluster) -> None:
    lonely = cluster.workers[1]
    assert lonely.stop() == 0
    (lonely.home / ".ayni" / "cluster" / "members.json").unlink()
    lonely.move("198.18.77.43")
    lonely.start()
    await_all_up(cluster.nodes)
    cluster.await_placement()
