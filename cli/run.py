"""The verb run: one answer to a prompt, the vector of a text, or a conversation, as model and surroundings ask for."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from cli.client import Client
from cli.commands import load_into_memory
from cli.errors import CommandError, UsageError
from cli.fields import list_of
from cli.models import find_model
from cli.reply import Reply, ReplyPrinter, stream_reply, timings
from cli.session import Choices, Session
from cli.text import cell, printable
from node.settings import Settings

THINK_LEVELS = ("low", "medium", "high", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the command line says. `dimensions` and `truncate` only matter to models that embed."""

    model: str
    words: tuple[str, ...]
    choices: Choices
    dimensions: int | None = None
    truncate: bool | None = None


def parse_think(text: str | None) -> bool | str | None:
    """The value of --think. Raises UsageError."""
    known: dict[str | None, bool | str | None] = {None: None, "": True, "true": True, "false": False}
    known |= {level: level for level in THINK_LEVELS}
    if text not in known:
        raise UsageError(f"invalid value for --think: '{cell(text or '')}' (true, false, {', '.join(THINK_LEVELS)})")
    return known[text]


def parse_format(text: str) -> Any:
    """The value of --format: "json", or a JSON schema. Raises UsageError."""
    if text in ("", "json"):
        return text or None
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        raise UsageError(f"invalid value for --format: '{cell(text[:60])}' (json, or a JSON schema)")
    return schema


def run_model(client: Client, settings: Settings, request: RunRequest) -> None:
    """Answer the prompt made of stdin and the command line's words; without either, converse.

    Raises: CommandError: the node is gone or refuses. KeyboardInterrupt: the reply was stopped.
    """
    piped = read_piped(settings.max_body_bytes)
    prompt = " ".join([*([piped] if piped else []), *request.words])
    interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty() and not request.words
    shown = find_model(client, request.model)
    capabilities = list_of(shown, "capabilities")
    session = Session(request.model, request.choices, think_chosen=request.choices.think is not None)
    session.adopt(shown)
    if "embedding" in capabilities and "completion" not in capabilities:
        embed(client, request, prompt)
    elif interactive:
        from cli.interactive import converse

        load_into_memory(session, client)
        replay(session)
        converse(client, session, settings)
    else:
        answer_once(client, session, prompt)


def read_piped(limit_bytes: int) -> str:
    """What is piped into the command; empty at a terminal. Raises CommandError: more than a node takes."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    piped = sys.stdin.buffer.read(limit_bytes + 1)
    if len(piped) > limit_bytes:
        raise CommandError(f"the text piped in is longer than the {limit_bytes} bytes that a node takes")
    return piped.decode(errors="replace")


def answer_once(client: Client, session: Session, prompt: str) -> None:
    """Print the answer to one prompt; an empty prompt only brings the model into memory."""
    choices, reply = session.choices, Reply()
    printer = ReplyPrinter(sys.stdout, wrap_words=choices.wrap_words, hide_thinking=choices.hide_thinking)
    body = {"model": session.model, "prompt": prompt} | choices.request_fields()
    stream_reply(client, "/api/generate", body, printer, reply)
    if prompt:
        print("\n", flush=True)
    if choices.verbose:
        print(timings(reply.last or {}), end="", file=sys.stderr)


def embed(client: Client, request: RunRequest, text: str) -> None:
    """Print the vector of a text as a JSON array."""
    if not text:
        raise UsageError(f'embedding models require input text. Usage: ayni run {cell(request.model)} "your text here"')
    chosen = {
        "keep_alive": request.choices.keep_alive,
        "truncate": request.truncate,
        "dimensions": request.dimensions,
    }
    body = {"model": request.model, "input": text} | {k: v for k, v in chosen.items() if v is not None}
    vectors = list_of(client.ask("POST", "/api/embed", body, timeout_s=None), "embeddings")
    if not vectors:
        raise CommandError("no embeddings returned")
    print(json.dumps(vectors[0], separators=(",", ":")))


def replay(session: Session) -> None:
    """Show the turns that the model's own Modelfile starts every conversation with."""
    for message in session.own_messages:
        content = printable(str(message.get("content", "")))
        if message.get("role") == "user":
            print(f">>> {content}")
        elif message.get("role") == "assistant":
            printer = ReplyPrinter(sys.stdout, wrap_words=session.choices.wrap_words, hide_thinking=True)
            printer.show_text(content)
            printer.finish()
            print("\n")
