"""The demonstration: a cluster on one machine, a long answer, and the death of the node that is giving it.

It only does what a person could do with the other verbs, and says so step by step. Everything it claims is checked;
what does not hold ends it with the reason and the exit status 1.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from cli.demo_nodes import NAMES, POLL_S, START_LIMIT_S, DemoNode, demo_nodes, wait_for
from cli.errors import CommandError, UsageError
from cli.fields import count_of, object_of, text_of
from cli.text import cell

MODEL = "demo"
QUESTION = "Count from 1 to 100"
FORM_LIMIT_S = 30.0
RAY_LIMIT_S = 90.0
ANSWER_LIMIT_S = 60.0
# By then the answer has well begun, and most of it is still to come.
KILL_AFTER_CHARS = 20
# Nodes report what they have in memory at least twice a second.
HEIR_LIMIT_S = 3.0
# The whole answer takes a tenth of a second: on a busy machine it may be over before the kill.
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `cut_at`: how many characters had come when a node was killed."""

    text: str
    tokens: int
    seconds: float
    cut_at: int = 0


def show_cluster(count: int, *, with_ray: bool, keep_folder: bool) -> int:
    """Run the demonstration with so many nodes; returns the exit status.

    Raises: UsageError: too few or many nodes. CommandError: something did not work.
    """
    if not 2 <= count <= len(NAMES):
        raise UsageError(f"--nodes must be from 2 to {len(NAMES)}, not {count}")
    _say(
        f"{count} nodes on this machine will stand for {count} machines. They have a folder and ports of their own;\n"
        "your node, your models and your settings are not touched.\n"
    )
    with _ended_in_order() as ignore_signals, demo_nodes(count, with_ray=with_ray, keep_folder=keep_folder) as nodes:
        try:
            _tell(nodes, with_ray=with_ray)
        except CommandError as error:
            if error.hint or keep_folder:
                raise
            raise CommandError(error.message, "What the nodes said can be kept with: --keep-logs") from error
        finally:
            ignore_signals()
            if keep_folder:
                _say(f"The nodes' folders and logs: {nodes[0].folder.parent}")
            _say("Stopping the nodes and removing what was theirs.")
    return 0


def _tell(nodes: list[DemoNode], *, with_ray: bool) -> None:
    _start(nodes)
    _form(nodes, with_ray=with_ray)
    server, asker = _load(nodes)
    _say(f"3. {server.name} has loaded the built-in model `{MODEL}` (`ayni ps`). From now on we ask {asker.name},")
    _say(f"   which has not: it passes the question on to {server.name} and the answer back, word by word.\n")
    undisturbed = _undisturbed(server, asker)
    disturbed, server, heir = _disturbed(nodes, server, asker)
    if disturbed.text != undisturbed.text:
        raise CommandError(f"the answer differs from the undisturbed one: {_shortened(disturbed.text)}")
    _say(
        f"6. Compared: the two answers are identical in all {len(disturbed.text)} characters. {heir.name} went on where"
    )
    _say(f"   {server.name} had stopped. Nothing was lost, nothing came twice; who asked noticed only a pause.\n")
    began_s = time.monotonic()
    _revive(nodes, server)
    seconds = time.monotonic() - began_s
    _say(f"7. {server.name} is switched on again, and is back in the cluster after {seconds:.1f} s, by itself.\n")
    _say("A cluster of your own begins like this: ayni cluster create home")


def _start(nodes: list[DemoNode]) -> None:
    _say("1. Starting the nodes. On real machines this is `ayni serve` on each.")
    began_s = time.monotonic()
    for node in nodes:
        node.start()
    for node in nodes:
        wait_for(node.answers, START_LIMIT_S, f"the start of {node.name}")
        assert node.process is not None
        _say(f"     {node.name}   {node.host}:{node.port}   process {node.process.pid}")
    _say(f"   All answer after {time.monotonic() - began_s:.1f} s.\n")


def _form(nodes: list[DemoNode], *, with_ray: bool) -> None:
    first, *others = nodes
    _say(f"2. {first.name} makes a cluster (`ayni cluster create`) and invites the others (`ayni cluster invite`);")
    _say("   each joins with the line that the invitation is (`ayni join`).")
    began_s = time.monotonic()
    first.client.ask("POST", "/api/cluster", {"name": "ayni-demo"}, timeout_s=FORM_LIMIT_S)
    body = {"uses": len(others), "expires_s": 300}
    line = text_of(first.client.ask("POST", "/api/cluster/invitations", body, timeout_s=FORM_LIMIT_S), "invitation")
    for node in others:
        node.client.ask("POST", "/api/cluster/join", {"invitation": line}, timeout_s=FORM_LIMIT_S)
    wait_for(lambda: _all_see_each_other(nodes), FORM_LIMIT_S, "each node seeing the others up")
    _say(f"   After {time.monotonic() - began_s:.1f} s each of the {len(nodes)} sees all the others (`ayni nodes`).")
    if with_ray:
        wait_for(lambda: all(node.takes_part_in_ray() for node in nodes), RAY_LIMIT_S, "a Ray session over all nodes")
        wait_for(lambda: _heads(nodes[-1]), FORM_LIMIT_S, "the choice of a head")
        _say(f"   Their Ray session has {_heads(nodes[-1])[0]} as its head ({time.monotonic() - began_s:.1f} s).")
    _say("")


def _all_see_each_other(nodes: list[DemoNode]) -> bool:
    everybody = {node.name: "up" for node in nodes}
    return all(node.states() == everybody for node in nodes)


def _heads(node: DemoNode) -> list[str]:
    return [name for name, seen in node.view().items() if seen.get("head") is True]


def _load(nodes: list[DemoNode]) -> tuple[DemoNode, DemoNode]:
    """Load the model somewhere. Returns: the node that has it, and another to ask."""
    nodes[0].client.ask("POST", "/api/generate", {"model": MODEL, "stream": False}, timeout_s=ANSWER_LIMIT_S)
    asker = nodes[-1]
    server = wait_for(lambda: _holders(nodes, asker), FORM_LIMIT_S, f"a node with `{MODEL}` in memory")[0]
    return server, asker if asker is not server else nodes[0]


def _holders(nodes: list[DemoNode], asker: DemoNode) -> list[DemoNode]:
    """Who has the model in memory."""
    return [node for node in nodes if asker.has_in_memory(node.name, MODEL)]


def _undisturbed(server: DemoNode, asker: DemoNode) -> Answer:
    answer = _ask(asker)
    _check(f"{server.name} still has the model", asker.has_in_memory(server.name, MODEL))
    _check(f"{asker.name} did not load the model itself", not asker.has_in_memory(asker.name, MODEL))
    _check("the answer is long enough to be interrupted", len(answer.text) > 10 * KILL_AFTER_CHARS)
    _say(f'4. "{QUESTION}", asked of {asker.name} while nothing is wrong:')
    _say(f"     {_shortened(answer.text)}")
    _say(f"   {answer.tokens} tokens in {answer.seconds:.2f} s.\n")
    return answer


def _disturbed(nodes: list[DemoNode], server: DemoNode, asker: DemoNode) -> tuple[Answer, DemoNode, DemoNode]:
    """Ask again and kill the server. Returns: the answer, the node that was killed, the one that went on."""
    _say(f"5. The same again, but as soon as the answer has begun, {server.name} is killed (SIGKILL), as if its plug")
    _say("   had been pulled:")
    for _ in range(ATTEMPTS):
        _check(f"only {server.name} has the model in memory", _holders(nodes, asker) == [server])
        answer = _ask(asker, kill=server)
        # Whoever else has it now was needed to go on.
        if heirs := _heirs([node for node in nodes if node is not server], asker):
            before, after = cell(answer.text[: answer.cut_at]), cell(answer.text[answer.cut_at :])
            _say(f"     {before} >>> {server.name} is killed <<< {_shortened(after)}")
            _say(f"   {answer.tokens} tokens in {answer.seconds:.2f} s, in one and the same response.\n")
            return answer, server, heirs[0]
        _say(f"     (The answer was complete before that. {server.name} is started for another attempt.)")
        _revive(nodes, server)
        server, asker = _load(nodes)
    raise CommandError(f"in {ATTEMPTS} attempts the answer was complete before the node was killed")


def _heirs(others: list[DemoNode], asker: DemoNode) -> list[DemoNode]:
    deadline_s = time.monotonic() + HEIR_LIMIT_S
    while not (heirs := _holders(others, asker)) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return heirs


def _revive(nodes: list[DemoNode], node: DemoNode) -> None:
    node.start()
    wait_for(node.answers, START_LIMIT_S, f"the start of {node.name}")
    wait_for(lambda: _all_see_each_other(nodes), FORM_LIMIT_S, f"the return of {node.name}")


def _ask(asker: DemoNode, *, kill: DemoNode | None = None) -> Answer:
    """Ask, and kill a node when the answer has begun. Raises CommandError: it broke off, or took too long."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "think": False,
        "options": {"temperature": 0},
    }
    text, cut_at, last = "", 0, dict[str, Any]()
    began_s = time.monotonic()
    with closing(asker.client.stream("/api/chat", body, timeout_s=ANSWER_LIMIT_S)) as events:
        for last in events:
            text += text_of(object_of(last, "message"), "content")
            if kill is not None and not cut_at and len(text) >= KILL_AFTER_CHARS:
                kill.kill()
                cut_at = len(text)
            if time.monotonic() - began_s > ANSWER_LIMIT_S:
                raise CommandError(f"the answer was not complete within {ANSWER_LIMIT_S:.0f} s")
    if last.get("done") is not True:
        raise CommandError(f"the answer broke off: {_shortened(text)}")
    return Answer(text, count_of(last, "eval_count"), time.monotonic() - began_s, cut_at)


def _check(what: str, holds: bool) -> None:
    if not holds:
        raise CommandError(f"this should be so and is not: {what}")


def _shortened(text: str) -> str:
    shown = cell(text.strip())
    return shown if len(shown) <= 90 else f"{shown[:50]} ... {shown[-32:]}"


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _ended_in_order() -> Iterator[Callable[[], None]]:
    """Let a closed terminal and SIGTERM end the demonstration as Ctrl-C does. What it yields is called before the
    clearing away, which they must not interrupt.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def ignore() -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        ignore()
        raise KeyboardInterrupt

    before = [signal.signal(each, stop) for each in signals]
    try:
        yield ignore
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
