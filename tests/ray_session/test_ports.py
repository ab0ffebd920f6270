from __future__ import annotations

import socket

import pytest

from node.ray_session import PortsTaken, RayPorts, choose_ports
from node.ray_session.ports import BLOCK, MAX_BLOCKS, is_free_port


def test_every_purpose_has_a_port_of_its_own_within_the_block() -> None:
    ports = RayPorts(11440)
    singles = [
        ports.gcs, ports.node_manager, ports.object_manager, ports.runtime_env_agent, ports.agent_http,
        ports.agent_grpc, ports.metrics,
    ]  # fmt: skip
    first, last = ports.workers
    taken = [*singles, *range(first, last + 1)]
    assert len(set(taken)) == len(taken)
    assert all(port in ports for port in taken)
    assert max(taken) == ports.first + BLOCK - 1


def test_the_first_free_block_is_taken() -> None:
    assert choose_ports(11440, is_free=lambda port: port != 11445) == RayPorts(11440 + BLOCK)
    assert choose_ports(11440, is_free=lambda _: True, but_not=frozenset({11440})) == RayPorts(11440 + BLOCK)


def test_without_a_free_block_the_range_is_named() -> None:
    with pytest.raises(PortsTaken) as taken:
        choose_ports(11440, is_free=lambda _: False)
    assert str(taken.value) == f"no free block of ports for Ray between 11440 and {11440 + BLOCK * MAX_BLOCKS - 1}"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.11"])
def test_a_listener_on_any_address_takes_the_port(address: str) -> None:
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not is_free_port(port)
    assert is_free_port(port)
