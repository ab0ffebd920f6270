from __future__ import annotations

from pathlib import Path

import pytest

from node.identity import NodeId
from node.ray_session.formation import Formation, new_token
from node.ray_session.plan import Credentials, SessionPlan, driver_environment, session_environment, start_command
from node.ray_session.ports import RayPorts

TOKEN = new_token()
FOLDER = Path("/tmp/ayni-ray-x")


def plan(role: str = "worker", address: str = "127.0.0.12") -> SessionPlan:
    me, other = NodeId("a" * 16), NodeId("b" * 16)
    formation = Formation(
        generation=3, head=me if role == "head" else other, address="127.0.0.11", port=11440, token=TOKEN
    )
    return SessionPlan(
        formation=formation,
        role=formation.role_of(me),
        node=me,
        address=address,
        ports=RayPorts(11440),
        folder=FOLDER,
        store=Path("/state/gcs-3"),
        credentials=Credentials(Path("/crt"), Path("/key"), Path("/ca"), Path("/token")),
    )


@pytest.mark.parametrize("role", ["head", "worker"])
def test_ray_always_runs_with_tls_and_token_together_and_the_token_only_in_its_file(role: str) -> None:
    made = plan(role)
    for environment in (session_environment(made, {}), driver_environment(made, {})):
        assert environment["RAY_USE_TLS"] == "1"
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/token"
        assert TOKEN not in str(environment)
    assert TOKEN not in str(start_command(made))
    assert TOKEN not in repr(made)


def test_nothing_of_our_own_environment_reaches_ray_but_what_finds_programs() -> None:
    environ = {"PATH": "/bin", "HOME": "/home/a", "RAY_ADDRESS": "auto", "AYNI_HOST": "x", "SECRET": "y"}
    environment = session_environment(plan(), environ)
    assert environment["PATH"] == "/bin"
    assert not environment.keys() & {"RAY_ADDRESS", "AYNI_HOST", "SECRET"}


def test_only_the_head_keeps_a_database() -> None:
    assert session_environment(plan("head"), {})["RAY_gcs_storage_path"] == "/state/gcs-3"
    assert "RAY_gcs_storage" not in session_environment(plan(), {})


def test_the_head_starts_a_control_store_and_a_worker_joins_it() -> None:
    assert {"--head", "--port=11440", "--include-dashboard=false"} <= set(start_command(plan("head")))
    worker = start_command(plan())
    assert "--address=127.0.0.11:11440" in worker
    assert "--head" not in worker


def test_a_session_waits_for_a_head_but_a_driver_gives_up_in_seconds() -> None:
    assert session_environment(plan(), {})["RAY_gcs_rpc_server_reconnect_timeout_s"] == "60"
    assert driver_environment(plan(), {})["RAY_py_gcs_connect_timeout_s"] == "2"


def test_a_formation_keeps_out_who_was_removed_before_it_was_made() -> None:
    formation = Formation(generation=1, head=NodeId("a"), address="", port=1, token="t", removed=frozenset("bc"))
    assert formation.keeps_out({NodeId("b")})
    assert not formation.keeps_out({NodeId("b"), NodeId("d")})


def test_ipv6_addresses_are_bracketed() -> None:
    assert Formation(generation=1, head=NodeId("a"), address="fd00::1", port=1, token="t").gcs_address == "[fd00::1]:1"
