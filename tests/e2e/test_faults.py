"""What breaks in the field: clients that leave, runners that die, floods, two daemons, full disks, signals."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import http.server
import json
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.conftest import make_models
from tests.e2e.daemon_process import ROOT, DaemonProcess, environment, running_daemon

USER = {"role": "user", "content": "Say something."}
# With no limit and the oldest context thrown away, the answer of this model only ends when somebody ends it.
ENDLESS = {"num_predict": -1, "temperature": 0}
LIMIT_S = 60


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, model_files: dict[str, Path]) -> Iterator[DaemonProcess]:
    """A daemon that works on one request at a time, so that a slot which is not freed blocks the next one."""
    home = tmp_path_factory.mktemp("single")
    make_models(home, {"endless": model_files["endless"]})
    with running_daemon(home, settings={"AYNI_NUM_PARALLEL": "1", "AYNI_CONTEXT_LENGTH": "256"}) as process:
        yield process


def endless_chat(daemon: DaemonProcess, path: str = "/api/chat") -> tuple[http.client.HTTPConnection, Any]:
    """An answer without end whose first line has been read."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=LIMIT_S)
    body = {"model": "endless", "messages": [USER], "stream": True, "options": ENDLESS}
    connection.request("POST", path, body=json.dumps(body))
    response = connection.getresponse()
    assert response.status == 200
    assert response.readline()
    return connection, response


def short_answer(daemon: DaemonProcess) -> httpx.Response:
    body = {"model": "endless", "messages": [USER], "stream": False, "options": {"num_predict": 4}}
    return httpx.post(f"{daemon.url}/api/chat", json=body, timeout=LIMIT_S)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_client_that_leaves_in_the_middle_frees_its_slot(single: DaemonProcess, path: str) -> None:
    connection, _ = endless_chat(single, path)
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    assert short_answer(single).json()["done_reason"] == "length"


def test_a_client_that_leaves_while_it_waits_takes_no_slot(single: DaemonProcess) -> None:
    running, _ = endless_chat(single)
    waiting = http.client.HTTPConnection("127.0.0.1", single.port, timeout=LIMIT_S)
    waiting.request("POST", "/api/generate", body=json.dumps({"model": "endless", "prompt": "x", "options": ENDLESS}))
    time.sleep(0.2)
    for connection in (waiting, running):
        connection.close()
        if connection is running:
            assert short_answer(single).status_code == 200


def test_a_runner_killed_in_the_middle_gives_a_clear_error_and_the_next_request_works(single: DaemonProcess) -> None:
    connection, response = endless_chat(single)
    [runner] = single.runners()
    runner.send_signal(signal.SIGKILL)
    last = response.read().splitlines()[-1]
    connection.close()
    assert "endless" in json.loads(last)["error"]
    assert short_answer(single).json()["done_reason"] == "length"
    assert single.runners()[0].pid != runner.pid


def test_a_runner_killed_in_the_middle_ends_an_event_stream_with_an_error(single: DaemonProcess) -> None:
    connection, response = endless_chat(single, "/v1/chat/completions")
    [runner] = single.runners()
    runner.send_signal(signal.SIGKILL)
    events = response.read().decode().strip().split("\n\n")
    connection.close()
    assert events[-1].startswith('data: {"error":{"message":')
    assert "[DONE]" not in events[-1]


async def test_200_requests_at_once_are_all_answered_or_told_to_come_back(
    tmp_path: Path, model_files: dict[str, Path]
) -> None:
    make_models(tmp_path, {"tiny": model_files["tiny"]})
    settings = {"AYNI_NUM_PARALLEL": "4", "AYNI_MAX_QUEUE": "64", "AYNI_CONTEXT_LENGTH": "256"}
    with running_daemon(tmp_path, settings=settings) as daemon:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=daemon.url, timeout=LIMIT_S, limits=limits) as client:

            async def ask(number: int) -> int:
                if number % 2:
                    body: dict[str, Any] = {"model": "tiny", "messages": [USER], "max_tokens": 4, "stream": True}
                    response = await client.post("/v1/chat/completions", json=body)
                    whole = response.text.endswith("data: [DONE]\n\n")
                else:
                    body = {"model": "tiny", "prompt": f"{number}", "options": {"num_predict": 4}, "stream": False}
                    response = await client.post("/api/generate", json=body)
                    whole = response.status_code != 200 or response.json()["done"]
                if response.status_code == 503:
                    assert int(response.headers["retry-after"]) > 0
                else:
                    assert whole
                return response.status_code

            statuses = Counter(await asyncio.gather(*(ask(number) for number in range(200))))
            assert set(statuses) <= {200, 503}
            assert statuses[200] >= 64
            assert (await client.get("/api/version")).status_code == 200
        assert len(daemon.runners()) == 1


def test_two_daemons_share_one_store(daemon: DaemonProcess, home: Path) -> None:
    with running_daemon(home) as other:
        body = {"model": "shared", "from": "tiny", "stream": False}
        assert httpx.post(f"{daemon.url}/api/create", json=body, timeout=LIMIT_S).json() == {"status": "success"}
        asked = {"model": "shared", "prompt": "x", "options": {"num_predict": 2}, "stream": False}
        for one in (daemon, other):
            answer = httpx.post(f"{one.url}/api/generate", json=asked, timeout=LIMIT_S).json()
            assert answer["eval_count"] == 2
        assert httpx.request("DELETE", f"{other.url}/api/delete", json={"model": "shared"}).status_code == 200
        gone = httpx.post(f"{daemon.url}/api/generate", json=asked, timeout=LIMIT_S)
        assert gone.status_code == 404
        assert httpx.post(f"{daemon.url}/api/show", json={"model": "tiny"}).status_code == 200


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/api/show"])
def test_an_oversized_body_is_413_whether_announced_or_not(daemon: DaemonProcess, path: str) -> None:
    body = b'{"model": "' + b"x" * (2 << 20) + b'"}'

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    for content in (body, chunks()):
        response = httpx.post(f"{daemon.url}{path}", content=content, timeout=LIMIT_S)
        assert response.status_code == 413
        error = response.json()["error"]
        assert "too large" in (error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("line", [b"x: y\r\n", b"x"], ids=["many", "long"])
def test_headers_without_end_are_refused_before_they_end(daemon: DaemonProcess, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=LIMIT_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nx: " + line * (65_536 // len(line)))
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.endswith(b'{"error":"request head too long: at most 65536 bytes are read"}')
    assert httpx.get(f"{daemon.url}/", headers={"x": "y" * 60_000}).status_code == 200


def test_a_full_disk_refuses_a_blob_and_leaves_nothing(tmp_path: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    with running_daemon(tmp_path, before=small_files_only) as daemon:
        data = b"x" * (8 << 20)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        refused = httpx.post(f"{daemon.url}/api/blobs/{digest}", content=data, timeout=LIMIT_S)
        assert refused.status_code == 507
        assert "can't store a file" in refused.json()["error"]
        assert httpx.head(f"{daemon.url}/api/blobs/{digest}").status_code == 404
        assert list((tmp_path / ".ayni" / "models" / "blobs").iterdir()) == []
        small = b"y" * 1000
        stored = httpx.post(f"{daemon.url}/api/blobs/sha256:{hashlib.sha256(small).hexdigest()}", content=small)
        assert stored.status_code == 201


def test_a_blob_whose_client_leaves_leaves_nothing(daemon: DaemonProcess, home: Path) -> None:
    blobs = home / ".ayni" / "models" / "blobs"
    before = {path.name for path in blobs.iterdir()}
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        head = f"POST /api/blobs/sha256:{'0' * 64} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 100_000)
        time.sleep(0.3)
    deadline = time.monotonic() + 10
    while {path.name for path in blobs.iterdir()} != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {path.name for path in blobs.iterdir()} == before


def test_a_stopped_daemon_ends_its_streams_and_its_runners_and_exits_0(
    tmp_path: Path, model_files: dict[str, Path]
) -> None:
    make_models(tmp_path, {"endless": model_files["endless"]})
    # An answer ends after ten contexts; these take far longer than the daemon lets streams go on.
    with running_daemon(tmp_path, settings={"AYNI_CONTEXT_LENGTH": str(1 << 15)}) as daemon:
        connection, response = endless_chat(daemon)
        lines: list[bytes] = []
        reader = threading.Thread(target=lambda: lines.extend(response.read().splitlines()))
        reader.start()
        runners = daemon.runners()
        assert runners
        started = time.monotonic()
        assert daemon.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started < 20
        reader.join(LIMIT_S)
        connection.close()
        assert "error" in json.loads(lines[-1])
        _, alive = psutil.wait_procs(runners, timeout=10)
        assert alive == []
        assert list((tmp_path / ".ayni").glob("daemon-*.json")) == []
        assert "Traceback" not in daemon.log


class Stranger(http.server.BaseHTTPRequestHandler):
    """Something else on the port."""

    answer = b"hello"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


class FakeOllama(Stranger):
    """It answers as an Ollama server would."""

    answer = b'{"version": "0.9.9"}'


def serve_on(port: int, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "serve"],
        cwd=ROOT,
        env=environment(home, AYNI_HOST=f"127.0.0.1:{port}"),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("handler", "words"),
    [(Stranger, "another program holds"), (FakeOllama, "an Ollama server holds")],
)
def test_a_taken_port_stops_the_start_with_one_line(
    tmp_path: Path, handler: type[http.server.BaseHTTPRequestHandler], words: str
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ended = serve_on(server.server_port, tmp_path)
        server.shutdown()
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert words in line
    assert "AYNI_HOST=127.0.0.1:" in line


def test_a_second_daemon_on_the_same_port_says_who_is_there(daemon: DaemonProcess, tmp_path: Path) -> None:
    ended = serve_on(daemon.port, tmp_path)
    assert ended.returncode == 1
    assert "a node is already running" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
