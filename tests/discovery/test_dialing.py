from __future__ import annotations

import pytest

from node.discovery import Advert, Dial, InvalidPeer, PeerAddress, Remembered, Sighting, choose_dials
from node.discovery.dialing import MAX_DIALS, MAX_DIALS_PER_NODE
from node.identity import ClusterId, NodeId

ME, PEER = NodeId("0" * 16), NodeId("1" * 16)
HOME, OFFICE = ClusterId("a" * 16), ClusterId("b" * 16)


def seen(node: NodeId, *hosts: str, cluster: ClusterId = HOME, port: int = 11435) -> Sighting:
    advert = Advert(
        node=node, node_name="box", cluster=cluster, cluster_name="home", port=port, fingerprint="f" * 64, version="0"
    )
    return Sighting(instance=f"box-{node[:8]}", addresses=hosts, advert=advert)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("box", PeerAddress("box", 11435)),
        ("192.0.2.7", PeerAddress("192.0.2.7", 11435)),
        ("192.0.2.7:9000", PeerAddress("192.0.2.7", 9000)),
        ("box.lan:11434", PeerAddress("box.lan", 11434)),
        ("[fd00::5]:9000", PeerAddress("fd00::5", 9000)),
        ("fd00::5", PeerAddress("fd00::5", 11435)),
        ("[fd00::5]", PeerAddress("fd00::5", 11435)),
        ("fd00::1:9000", PeerAddress("fd00::1:9000", 11435)),
    ],
)
def test_a_peer_is_written_as_host_and_port(text: str, address: PeerAddress) -> None:
    assert PeerAddress.parse(text) == address
    assert PeerAddress.parse(str(address)) == address


@pytest.mark.parametrize("text", ["", " ", "http://box", "box/path", "box:99999", "a b", "[::1", "fd00::1:11434"])
def test_what_can_not_be_dialled_is_no_peer(text: str) -> None:
    with pytest.raises(InvalidPeer):
        PeerAddress.parse(text)


def test_static_peers_come_before_remembered_ones_before_seen_ones() -> None:
    dials = choose_dials(
        me=ME,
        cluster=HOME,
        static=[PeerAddress("office-box")],
        remembered=[Remembered(PEER, (PeerAddress("192.0.2.7"),))],
        sightings=[seen(PEER, "192.0.2.8")],
    )
    assert dials == [
        Dial(PeerAddress("office-box"), None, "static"),
        Dial(PeerAddress("192.0.2.7"), PEER, "remembered"),
        Dial(PeerAddress("192.0.2.8"), PEER, "mdns"),
    ]


def test_an_address_is_dialled_once_for_the_node_expected_there() -> None:
    dials = choose_dials(
        me=ME,
        cluster=HOME,
        static=[PeerAddress("192.0.2.7")],
        remembered=[Remembered(PEER, (PeerAddress("192.0.2.7"),))],
        sightings=[seen(PEER, "192.0.2.7")],
    )
    assert dials == [Dial(PeerAddress("192.0.2.7"), PEER, "static")]


def test_neither_this_machine_nor_another_cluster_is_dialled() -> None:
    sightings = [seen(ME, "192.0.2.1"), seen(PEER, "192.0.2.2", cluster=OFFICE), Sighting(instance="x", problem="no")]
    assert choose_dials(me=ME, cluster=HOME, sightings=sightings) == []


def test_a_flood_of_adverts_neither_grows_the_list_without_bound_nor_hides_static_peers() -> None:
    flood = [seen(NodeId(f"{n:016x}"), *(f"192.0.2.{h}" for h in range(50)), port=n + 1) for n in range(1, 3000)]
    dials = choose_dials(me=ME, cluster=HOME, static=[PeerAddress("office-box")], sightings=flood)
    assert len(dials) == MAX_DIALS
    assert dials[0].address.host == "office-box"
    assert sum(dial.node == "0000000000000001" for dial in dials) == MAX_DIALS_PER_NODE
