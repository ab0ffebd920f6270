"""A node's HTTP side with scripted answers, on a real socket, and the command run against it as people run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[2]
Answer: TypeAlias = "Reply | Callable[[Any], Reply]"


@dataclass
class Reply:
    """A status and a body; a list of bodies is sent as a stream of lines, `pause_s` apart, maybe never ended."""

    body: Any = b""
    status: int = 200
    pause_s: float = 0.0
    cut: bool = False


@dataclass
class ScriptedNode:
    """Answers by "METHOD /path"; remembers what was asked, and which streams their readers left early."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    left_early: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def asked_of(self, route: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == route]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    node: ScriptedNode

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def _answer(self) -> None:
        route = f"{self.command} {self.path}"
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw) if self.headers.get("Content-Type") == "application/json" and raw else raw
        self.node.asked.append((route, body))
        answer = self.node.answers.get(route, Reply({"error": f"no answer for {route}"}, 404))
        reply = answer(body) if callable(answer) else answer
        try:
            self._send(reply)
        except (BrokenPipeError, ConnectionResetError):
            self.node.left_early.set()
        self.close_connection = True

    do_GET = do_POST = do_HEAD = do_DELETE = do_PATCH = _answer  # noqa: N815

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        if not isinstance(reply.body, list):
            raw = (
                reply.body
                if isinstance(reply.body, bytes)
                else b""
                if reply.body is None
                else json.dumps(reply.body).encode()
            )
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in reply.body:
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            time.sleep(reply.pause_s)
        if not reply.cut:
            self.wfile.write(b"0\r\n\r\n")


@dataclass
class Command:
    """`ayni` with a home folder of its own."""

    home: Path
    environ: dict[str, str]

    def __call__(self, *words: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "cli", *words]
        done = subprocess.run(line, input=stdin, capture_output=True, env=self.environ, cwd=cwd, timeout=60)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def environment(home: Path) -> dict[str, str]:
    """Variables of a person at a terminal who has set nothing up yet."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AYNI_", "OLLAMA_", "XDG_"))}
    # Port 1: nothing answers there, and no test can reach somebody's own node by mistake.
    own = {"HOME": str(home), "PYTHONPATH": str(ROOT), "AYNI_HOST": "127.0.0.1:1", "TERM": "xterm-256color"}
    return inherited | own | {"PROMPT_TOOLKIT_NO_CPR": "1"}
