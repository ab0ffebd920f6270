"""Sessions of a stand-in for `ray start`: a shell that leaves processes behind, named as Ray's are."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from node.identity import NodeId
from node.ray_session import Formation, RayCommandFailed, RayControlLost, RayPorts, SessionPlan, leftover, processes
from node.ray_session.control import RayControl
from node.ray_session.guard import Guard
from node.ray_session.plan import Credentials
from node.ray_session.session import RaySession, explain

ME, OTHER = NodeId("a" * 16), NodeId("b" * 16)
# Like `ray start`: leaves a child in its session and returns.
LEAVES_RAYLET = "cp /bin/sleep raylet && { ./raylet 60 & } && { sleep 60 & } && sleep 0.2"
LEAVES_BOTH = f"cp /bin/sleep gcs_server && {{ ./gcs_server 60 & }} && {LEAVES_RAYLET}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = leftover.make_session_folder(tmp_path)
    yield made
    leftover.remove_session_folder(made)


def plan(folder: Path, state: Path, head: NodeId = OTHER) -> SessionPlan:
    formation = Formation(generation=1, head=head, address="127.0.0.11", port=1, token="t")
    return SessionPlan(
        formation=formation,
        role=formation.role_of(ME),
        node=ME,
        address="127.0.0.12",
        ports=RayPorts(1000),
        folder=folder,
        store=state / "gcs",
        credentials=Credentials(state, state, state, state),
    )


async def start(made: SessionPlan, state: Path, script: str, limit_s: float = 10) -> RaySession:
    return await RaySession.start(made, state, os.environ, command=["sh", "-c", script], limit_s=limit_s)


@pytest.fixture
async def session(folder: Path, tmp_path: Path) -> AsyncIterator[RaySession]:
    made = await start(plan(folder, tmp_path), tmp_path, LEAVES_RAYLET)
    yield made
    await made.stop()


def exists(path: Path) -> bool:
    return path.exists()


def words(members: dict[int, list[str]]) -> set[str]:
    return {Path(line[0]).name for line in members.values()}


async def test_stopping_ends_every_process_and_leaves_no_file(
    session: RaySession, folder: Path, tmp_path: Path
) -> None:
    pids = set(await session.members())
    assert words(await session.members()) == {"raylet", "sleep"}
    await session.stop()
    assert not any(processes.is_alive(pid) for pid in pids)
    assert not exists(folder)
    assert not (tmp_path / leftover.FILE).exists()
    await session.stop()


async def test_processes_of_another_folder_are_not_touched(session: RaySession, tmp_path: Path) -> None:
    assert processes.members(session.session_id, tmp_path) == {}
    assert processes.members(os.getsid(0), session.plan.folder) == {}


async def test_the_end_of_the_raylet_loses_the_session(session: RaySession) -> None:
    (raylet,) = [pid for pid, line in (await session.members()).items() if "raylet" in line[0]]
    processes.kill(raylet)
    async with asyncio.timeout(3):
        assert await session.lost == "the raylet ended"


async def test_the_end_of_the_control_store_loses_the_heads_session(folder: Path, tmp_path: Path) -> None:
    session = await start(plan(folder, tmp_path, head=ME), tmp_path, LEAVES_BOTH)
    try:
        (store,) = [pid for pid, line in (await session.members()).items() if "gcs_server" in line[0]]
        processes.kill(store)
        async with asyncio.timeout(3):
            assert await session.lost == "the control store ended"
    finally:
        await session.stop()


async def test_the_dashboard_that_nobody_asked_for_is_ended(folder: Path, tmp_path: Path) -> None:
    script = f"{LEAVES_BOTH} && {{ {sys.executable} -c 'import time; time.sleep(60)' x/ray/dashboard/dashboard.py & }}"
    session = await start(plan(folder, tmp_path, head=ME), tmp_path, f"{script}; sleep 0.3")
    try:
        async with asyncio.timeout(3):
            while any("dashboard" in str(line) for line in (await session.members()).values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        await session.stop()


async def test_a_worker_that_stays_idle_is_ended_and_a_busy_one_is_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.ray_session.session.IDLE_S", 0.3)
    workers = "for name in ray::IDLE ray::NodeAgent; do cp /bin/sleep $name && { ./$name 60 & }; done"
    session = await start(plan(folder, tmp_path), tmp_path, f"{workers}; {LEAVES_RAYLET}")
    try:
        assert "ray::IDLE" in words(await session.members())
        async with asyncio.timeout(5):
            while "ray::IDLE" in words(await session.members()):  # noqa: ASYNC110 - a process's end has no event
                await asyncio.sleep(0.05)
        assert words(await session.members()) == {"raylet", "ray::NodeAgent", "sleep"}
        assert not session.lost.done()
    finally:
        await session.stop()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo RuntimeError: Version mismatch: 3.12; exit 1", "this machine's Ray or Python differs from the head's"),
        ("exit 3", "it ended with status 3"),
        ("sleep 60", "no answer within 0 s"),
        ("echo Failed to connect to GCS; sleep 60 & sleep 60", "the head does not answer"),
        ("true", "the raylet ended at once"),
    ],
)
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    script: str, reason: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RayCommandFailed) as failed:
        await start(plan(folder, tmp_path), tmp_path, script, limit_s=0.4)
    assert failed.value.reason.startswith(reason)
    assert not exists(folder)
    assert not (tmp_path / leftover.FILE).exists()


async def test_a_refused_token_is_said_at_once_although_ray_keeps_trying(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RayCommandFailed, match="the head does not accept the token of this generation"):
        await start(plan(folder, tmp_path), tmp_path, "echo Unauthenticated; sleep 60", limit_s=30)
    assert not exists(folder)


async def test_a_control_store_that_dies_while_ray_waits_for_it_ends_the_start(folder: Path, tmp_path: Path) -> None:
    script = "cp /bin/sleep gcs_server && ./gcs_server 1.5; sleep 61.25"
    with pytest.raises(RayCommandFailed, match="the control store ended at once"):
        await start(plan(folder, tmp_path, head=ME), tmp_path, script, limit_s=30)
    assert not runs("61.25")


async def test_what_a_program_that_can_not_be_started_leaves_is_swept(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await RaySession.start(plan(folder, tmp_path), tmp_path, {}, command=["/nowhere/ray"])
    leftover.sweep(tmp_path)
    assert not exists(folder)


async def test_a_start_that_is_broken_off_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    starting = asyncio.create_task(start(plan(folder, tmp_path), tmp_path, "sleep 60 & sleep 60"))
    async with asyncio.timeout(3):
        while b'"session_id":0' in (record(tmp_path) or b'"session_id":0'):  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert starting.cancelled()
    assert not exists(folder)


DAEMON = """
import asyncio, os, sys
from pathlib import Path
from node.ray_session.guard import Guard
async def main():
    words = ("sh", "-c", "sleep 60 & sleep 60")
    child = await asyncio.create_subprocess_exec(*words, cwd=sys.argv[1], start_new_session=True)
    await Guard.start(child.pid, Path(sys.argv[1]))
    print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_session_whose_daemon_is_killed_ends_with_it(folder: Path) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout is not None
        session_id = int(daemon.stdout.readline())
        assert processes.members(session_id, folder)
    finally:
        daemon.kill()
        daemon.wait()
    deadline_s = time.monotonic() + 5
    while left := processes.members(session_id, folder):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.01)


async def test_a_guard_that_is_released_kills_nothing(folder: Path) -> None:
    child = await asyncio.create_subprocess_exec("sleep", "60", cwd=folder, start_new_session=True)
    guard = await Guard.start(child.pid, folder)
    await guard.release()
    await guard.release()
    assert processes.is_alive(child.pid)
    child.kill()
    await child.wait()


async def test_the_next_daemon_ends_what_a_killed_one_left(session: RaySession, folder: Path, tmp_path: Path) -> None:
    pids = set(await session.members())
    assert leftover.sweep(tmp_path)
    assert not any(processes.is_alive(pid) for pid in pids)
    assert not exists(folder)
    assert not leftover.sweep(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"session_id":1,"folder":"etc"}', b"\xff" * 9000])
def test_a_damaged_record_is_forgotten(content: bytes, tmp_path: Path) -> None:
    (tmp_path / leftover.FILE).write_bytes(content)
    assert not leftover.sweep(tmp_path)
    assert not (tmp_path / leftover.FILE).exists()


def test_a_record_can_not_make_us_remove_another_folder(tmp_path: Path) -> None:
    victim = tmp_path / "ayni-ray-1"
    victim.mkdir()
    leftover.write_record(tmp_path, leftover.SessionRecord(session_id=0, folder=victim))
    leftover.sweep(tmp_path)
    assert victim.exists()


def record(state: Path) -> bytes | None:
    path = state / leftover.FILE
    return path.read_bytes() if path.exists() else None


@pytest.mark.parametrize(
    ("output", "meaning"),
    [
        ("E: CERTIFICATE_VERIFY_FAILED", "the head's certificate was not accepted"),
        ("RPC error: InvalidAuthToken: ...", "the head does not accept the token of this generation"),
        ("Failed to connect to GCS within 5 seconds", "the head does not answer"),
        ("all is well", ""),
    ],
)
def test_rays_complaints_are_put_into_words(output: str, meaning: str) -> None:
    assert explain(output) == meaning


def runs(word: str) -> bool:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return f"sleep {word}\n" in listed


ANSWERS = """
import sys, json
print(json.dumps({"id": 0, "ok": True}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    answer = {"nodes": {"ok": [{"node": "x"}]}, "place_agent": {"error": "no such class"}}[asked["do"]]
    print(json.dumps({"id": asked["id"]} | answer), flush=True)
"""


async def test_a_driver_is_asked_and_answers(folder: Path, tmp_path: Path) -> None:
    made = plan(folder, tmp_path)
    async with RayControl.open(made, os.environ, command=[sys.executable, "-c", ANSWERS]) as control:
        assert await control.nodes() == [{"node": "x"}]
        with pytest.raises(RayCommandFailed, match="no such class"):
            await control.place_agent("module:Class")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("pass", "it ended"),
        ("print('hello')", "it answered nonsense"),
        ("print('[]')", "it answered nonsense"),
        ("""print('{"id": 7}')""", "it answered another question"),
        ("print('x' * 3000000)", "its answer was too long"),
    ],
)
async def test_a_driver_that_answers_wrongly_is_lost(script: str, reason: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RayControlLost) as lost:
        async with RayControl.open(plan(folder, tmp_path), os.environ, command=[sys.executable, "-c", script]):
            pass
    assert lost.value.reason == reason


async def test_a_driver_that_is_silent_is_killed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.ray_session.control.CONNECT_LIMIT_S", 0.2)
    with pytest.raises(RayControlLost, match="no answer to 'connect' within 0 s"):
        async with RayControl.open(plan(folder, tmp_path), os.environ, command=["sleep", "61.25"]):
            pass
    assert not runs("61.25")
