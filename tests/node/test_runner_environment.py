from __future__ import annotations

from node.supervisor.process import runner_environment


def test_a_runner_gets_what_libraries_and_devices_need_and_no_secrets() -> None:
    environment = runner_environment({"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1", "OPENAI_API_KEY": "sk-1"})
    assert environment["PATH"] == "/bin"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "OPENAI_API_KEY" not in environment


def test_waiting_threads_spin_briefly_unless_the_operator_says_otherwise() -> None:
    assert runner_environment({})["GOMP_SPINCOUNT"] == "1000"
    assert runner_environment({"GOMP_SPINCOUNT": "9"})["GOMP_SPINCOUNT"] == "9"
