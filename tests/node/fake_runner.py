"""A runner that keeps the protocol and computes nothing: its "model" is a JSON file that says how it behaves.

Keys: load_s, fail (a message), fail_above_layers, die_loading, silent_loading. A prompt says what a job does:
"count N" gives N deltas, "forever" one each 5 ms, "flood" as fast as the socket takes them, "mute" nothing,
"stall" stops the whole process from doing anything, "refuse" fails. Each start appends a line to
`<model file>.log`, so does each cancel.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

from node.jobs import Delta, Done, Embedded, Event, Failed, Job, Raw, Rendered, Usage
from node.runner.protocol import (
    Cancel,
    DeviceBytes,
    Embed,
    Events,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    LoadSpec,
    Render,
    Reply,
    Submit,
    decode_request,
    frame,
)

connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
jobs: dict[str, tuple[str, int]] = {}


def read(count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (chunk := connection.recv(count - len(data))):
            sys.exit(0)
        data += chunk
    return data


def receive() -> Any:
    return decode_request(read(int.from_bytes(read(4), "little")))


def reply(message: Reply) -> None:
    try:
        connection.sendall(frame(message))
    except OSError:
        sys.exit(0)


def send(*events: Event) -> None:
    reply(Events(events))


def load(spec: LoadSpec) -> dict[str, Any]:
    path = Path(spec.model_path)
    behaviour: dict[str, Any] = json.loads(path.read_text())
    note(path, f"start {os.getpid()} context={spec.context_tokens} parallel={spec.parallel} layers={spec.gpu_layers}")
    if behaviour.get("die_loading"):
        print("last words", file=sys.stderr)
        os._exit(9)
    if behaviour.get("silent_loading"):
        time.sleep(60)
    end = time.monotonic() + behaviour.get("load_s", 0)
    while time.monotonic() < end:
        reply(LoadProgress(0.5))
        time.sleep(0.02)
    above = behaviour.get("fail_above_layers")
    if "fail" in behaviour or (above is not None and spec.gpu_layers > above):
        reply(LoadFailed(behaviour.get("fail", "out of memory")))
        sys.exit(3)
    held = DeviceBytes("CPU", behaviour.get("bytes", 1000), 0, 0)
    reply(
        Loaded(
            load_ns=1, context_tokens=spec.context_tokens, train_context_tokens=8192, embedding_length=4,
            allocated=(held, DeviceBytes("GPU0", spec.gpu_layers * 10, 0, 0)) if spec.gpu_layers else (held,),
            supports_tools=False, supports_thinking=False, supports_infill=False,
        )
    )  # fmt: skip
    return {"path": path}


def note(path: Path, line: str) -> None:
    with Path(f"{path}.log").open("a") as file:
        file.write(line + "\n")


def prompt_of(job: Job) -> str:
    assert isinstance(job.prompt, Raw)
    return str(job.prompt.prompt)


def step() -> None:
    for job, (what, sent) in list(jobs.items()):
        jobs[job] = (what, sent + 1)
        if what.startswith("count"):
            if sent == int(what.split()[1]):
                del jobs[job]
                send(Done(job=job, reason="stop", usage=Usage(output_tokens=sent)))
            else:
                send(Delta(job=job, text=f"{sent} ", tokens=(sent,)))
        elif what == "forever":
            send(Delta(job=job, text="x", tokens=(1,)))
        elif what == "flood":
            reply(Events((Delta(job=job, text="x" * 100_000),) * 10))


request = receive()
assert isinstance(request, Load)
path = load(request.spec)["path"]
while True:
    busy = any(what != "mute" for what, _ in jobs.values())
    if select.select([connection], [], [], 0.005 if busy else None)[0]:
        request = receive()
        if isinstance(request, Cancel):
            jobs.pop(request.job, None)
            note(path, f"cancel {request.job}")
        elif isinstance(request, Embed):
            send(Embedded(job=request.job.id, vectors=(b"\0" * 16,) * len(request.job.inputs), prompt_tokens=3))
        elif isinstance(request, Render):
            send(Rendered(job=request.job.id, text=prompt_of(request.job), prompt_tokens=1))
        elif isinstance(request, Submit):
            what = prompt_of(request.job)
            if what == "refuse":
                send(Failed(job=request.job.id, kind="bad_request", message="not that"))
            elif what == "stall":
                time.sleep(60)
            elif what == "nonsense":
                connection.sendall(b"\xff\xff\xff\xff")
            else:
                jobs[request.job.id] = (what, 0)
    step()
