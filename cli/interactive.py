"""The interactive prompt: read an entry, let the model answer or a command act, again until the person leaves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from cli.client import Client
from cli.commands import act
from cli.errors import CommandError
from cli.reply import Reply, ReplyPrinter, stream_reply, timings
from cli.session import Entry, EntryReader, Session
from node.private_folder import make_private_folder

if TYPE_CHECKING:
    from node.settings import Settings

PLACEHOLDER = "Send a message (/? for help)"
HISTORY_FILE = "history"
# What was typed long ago helps nobody, and the file is read whole at every start.
MAX_HISTORY_BYTES = 1024 * 1024
STYLE = Style.from_dict({"placeholder": "ansibrightblack"})


class PrivateHistory(FileHistory):
    """What was typed, kept in a file that only its owner can read, as long as the session wants that."""

    def __init__(self, path: Path, session: Session) -> None:
        self._session = session
        super().__init__(str(path))

    def load_history_strings(self) -> Iterable[str]:
        """Earlier entries, newest first."""
        return super().load_history_strings() if self._session.keeps_history else ()

    def store_string(self, string: str) -> None:
        """Keep one entry. The prompt goes on where the disk does not take it."""
        if self._session.keeps_history:
            try:
                super().store_string(string)
            except OSError as error:
                self._session.keeps_history = False
                print(f"Warning: history is off: {error.strerror}", file=sys.stderr)


def open_history(state_dir: Path, session: Session) -> PrivateHistory:
    """The history in the state folder; off, with a warning, where there is no place for it."""
    path = state_dir / HISTORY_FILE
    try:
        make_private_folder(state_dir)
        if path.exists() and path.stat().st_size > MAX_HISTORY_BYTES:
            _shorten(path)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        path.chmod(0o600)
    except OSError as error:
        session.keeps_history = False
        print(f"Warning: history is off: {error.strerror}", file=sys.stderr)
    return PrivateHistory(path, session)


def _shorten(path: Path) -> None:
    """Keep the newer half, from the start of an entry."""
    kept = path.read_bytes()[-MAX_HISTORY_BYTES // 2 :]
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(kept[kept.find(b"\n# ") + 1 :])
    partial.replace(path)


def converse(client: Client, session: Session, settings: Settings) -> None:
    """Talk until Ctrl-D or /bye. What goes wrong is shown, and the conversation goes on."""
    session.keeps_history = settings.history
    prompt: PromptSession[str] = PromptSession(
        history=open_history(settings.state_dir, session), key_bindings=_keys(), style=STYLE
    )
    reader = EntryReader()
    while True:
        try:
            line = prompt.prompt(
                "... " if reader.within_block else ">>> ",
                placeholder="" if reader.within_block else FormattedText([("class:placeholder", PLACEHOLDER)]),
            )
        except EOFError:
            return
        except KeyboardInterrupt:
            if not reader.within_block and not prompt.default_buffer.text:
                print("\nUse Ctrl + d or /bye to exit.")
            reader.reset()
            continue
        entry = reader.feed(line)
        if entry is None:
            continue
        try:
            if carry_out(entry, session, client) == "leave":
                return
        except CommandError as error:
            print(f"Error: {error}", file=sys.stderr)
            if error.hint:
                print(error.hint, file=sys.stderr)
        except KeyboardInterrupt:
            print()


def carry_out(entry: Entry, session: Session, client: Client) -> str:
    """Do what was entered; returns "leave" to end. Raises CommandError, KeyboardInterrupt."""
    match entry.kind:
        case "command":
            return act(entry.text, session, client)
        case "system":
            session.set_system(entry.text)
            print("Set system message.")
        case "message":
            _let_answer(entry.text, session, client)
    return "stay"


def _let_answer(text: str, session: Session, client: Client) -> None:
    """One question and its answer; Ctrl-C ends the answer, and what came of it stays in the conversation."""
    choices, reply = session.choices, Reply()
    printer = ReplyPrinter(sys.stdout, wrap_words=choices.wrap_words, hide_thinking=choices.hide_thinking)
    session.ask(text)
    try:
        stream_reply(client, "/api/chat", session.chat_body(), printer, reply)
    finally:
        session.answer(reply.text, reply.thinking)
    print("\n", flush=True)
    if choices.verbose:
        print(timings(reply.last or {}), file=sys.stderr)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("c-g")
    def compose(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return keys
