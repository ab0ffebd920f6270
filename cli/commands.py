"""The slash commands of the interactive prompt: each reads its words, changes the session or asks the node, and prints.

`act` knows them all. What they print goes to stdout, like the replies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from cli.client import Client
from cli.errors import ServerError
from cli.fields import list_of, text_of
from cli.models import NOT_FOUND, list_models
from cli.session import Session
from cli.show import describe, safe
from cli.terminal import stderr_spinner
from cli.text import cell

Outcome = Literal["stay", "leave"]

HELP = """\
Available Commands:
  /set            Set session variables
  /show           Show model information
  /load <model>   Load a session or model
  /save <model>   Save your current session
  /list           List the models here
  /clear          Clear session context
  /bye            Exit
  /?, /help       Help for a command
  /? shortcuts    Help for keyboard shortcuts

Use \"\"\" to begin a multi-line message.
"""

SET_HELP = """\
Available Commands:
  /set parameter ...     Set a parameter
  /set system <string>   Set system message
  /set history           Enable history
  /set nohistory         Disable history
  /set wordwrap          Enable wordwrap
  /set nowordwrap        Disable wordwrap
  /set format json       Enable JSON mode
  /set noformat          Disable formatting
  /set verbose           Show LLM stats
  /set quiet             Disable LLM stats
  /set think [level]     Enable thinking
  /set nothink           Disable thinking
"""

SHOW_HELP = """\
Available Commands:
  /show info         Show details for this model
  /show license      Show model license
  /show modelfile    Show Modelfile for this model
  /show parameters   Show parameters for this model
  /show system       Show system message
  /show template     Show prompt template
"""

PARAMETER_HELP = """\
Available Parameters:
  /set parameter seed <int>             Random number seed
  /set parameter num_predict <int>      Max number of tokens to predict
  /set parameter top_k <int>            Pick from top k num of tokens
  /set parameter top_p <float>          Pick token based on sum of probabilities
  /set parameter min_p <float>          Pick token based on top token probability * min_p
  /set parameter num_ctx <int>          Set the context size
  /set parameter temperature <float>    Set creativity level
  /set parameter repeat_penalty <float> How strongly to penalize repetitions
  /set parameter repeat_last_n <int>    Set how far back to look for repetitions
  /set parameter num_gpu <int>          The number of layers to send to the GPU
  /set parameter stop <string> <string> ...   Set the stop parameters
"""

SHORTCUTS_HELP = """\
Available keyboard shortcuts:
  Ctrl + a            Move to the beginning of the line (Home)
  Ctrl + e            Move to the end of the line (End)
   Alt + b            Move back (left) one word
   Alt + f            Move forward (right) one word
  Ctrl + k            Delete to the end of the line
  Ctrl + u            Delete to the beginning of the line
  Ctrl + w            Delete the word before the cursor
  Ctrl + r            Search what was typed before

  Ctrl + l            Clear the screen
  Ctrl + g            Open your editor to compose a prompt
  Ctrl + c            Stop the model from responding
  Ctrl + d            Exit (/bye)
"""

NOTHING_SPECIFIED = {
    "license": "No license was specified for this model.",
    "modelfile": "No Modelfile was specified for this model.",
    "template": "No prompt template was specified for this model.",
}


def act(line: str, session: Session, client: Client) -> Outcome:
    """Carry out one command line, "/..." included. Raises CommandError: the node could not do its part."""
    name, *words = line.split()
    if name in ("/bye", "/exit"):
        return "leave"
    if name in COMMANDS:
        COMMANDS[name](words, session, client)
    else:
        print(f"Unknown command '{cell(name)}'. Type /? for help")
    return "stay"


def load_into_memory(session: Session, client: Client) -> None:
    """Have the model ready before the first question; fails early where it can't think as asked."""
    body = {"model": session.model, "stream": False} | session.choices.request_fields()
    body.pop("format", None)
    with stderr_spinner():
        for _ in client.stream("/api/generate", body):
            pass


def _help(words: list[str], session: Session, client: Client) -> None:
    topics = {"set": SET_HELP, "show": SHOW_HELP, "shortcut": SHORTCUTS_HELP, "shortcuts": SHORTCUTS_HELP}
    print(topics.get(words[0].removeprefix("/"), HELP) if words else HELP)


def _list(words: list[str], session: Session, client: Client) -> None:
    list_models(client, words[0] if words else "")


def _clear(words: list[str], session: Session, client: Client) -> None:
    session.clear()
    print("Cleared session context")


def _load(words: list[str], session: Session, client: Client) -> None:
    if len(words) != 1:
        print("Usage:\n  /load <modelname>")
        return
    print(f"Loading model '{cell(words[0])}'")
    other = Session(words[0], session.choices, session.think_chosen)
    try:
        other.adopt(client.ask("POST", "/api/show", {"model": other.model}))
        load_into_memory(other, client)
    except ServerError as error:
        if error.status != NOT_FOUND:
            raise
        print(f"Couldn't find model '{cell(words[0])}'")
        return
    session.model, session.parent, session.own_messages = other.model, other.parent, other.own_messages
    session.clear()


def _save(words: list[str], session: Session, client: Client) -> None:
    if len(words) != 1:
        print("Usage:\n  /save <modelname>")
        return
    with stderr_spinner():
        for _ in client.stream("/api/create", session.create_body(words[0])):
            pass
    print(f"Created new model '{cell(words[0])}'")


def _set(words: list[str], session: Session, client: Client) -> None:
    what, rest = (words[0], words[1:]) if words else ("", [])
    choices = session.choices
    if what in ("wordwrap", "nowordwrap"):
        choices.wrap_words = what == "wordwrap"
        print(f"Set '{what}' mode.")
    elif what in ("verbose", "quiet"):
        choices.verbose = what == "verbose"
        print(f"Set '{what}' mode.")
    elif what in ("history", "nohistory"):
        session.keeps_history = what == "history"
        print(f"Set '{what}' mode.")
    elif what in ("think", "nothink"):
        choices.think, session.think_chosen = (rest[0] if rest else True) if what == "think" else False, True
        _warn_unless_thinking(session, client)
        print(f"Set 'think' mode to '{cell(rest[0])}'." if rest and what == "think" else f"Set '{what}' mode.")
    elif what == "format" and rest == ["json"]:
        choices.output_format = "json"
        print("Set format to 'json' mode.")
    elif what == "format":
        print("Invalid or missing format. For 'json' mode use '/set format json'")
    elif what == "noformat":
        choices.output_format = None
        print("Disabled format.")
    elif what == "parameter":
        _set_parameter(rest, session)
    elif what in ("", "system"):
        print(SET_HELP)
    else:
        print(f"Unknown command '/set {cell(what)}'. Type /? for help")


def _set_parameter(words: list[str], session: Session) -> None:
    if len(words) < 2:
        print(PARAMETER_HELP)
        return
    from registry import InvalidParameter, parse_parameters  # here, as `run` needs it for nothing else

    name, *values = words
    try:
        session.options |= parse_parameters((name, value) for value in values)
    except InvalidParameter as error:
        print(f"Couldn't set parameter: {error}")
        return
    print(f"Set parameter '{name}' to '{cell(', '.join(values))}'")


def _warn_unless_thinking(session: Session, client: Client) -> None:
    shown = client.ask("POST", "/api/show", {"model": session.model})
    if "thinking" not in list_of(shown, "capabilities"):
        print(f"warning: model '{cell(session.model)}' does not support thinking output")


def _show(words: list[str], session: Session, client: Client) -> None:
    if not words:
        print(SHOW_HELP)
        return
    shown = client.ask("POST", "/api/show", {"model": session.model})
    what = words[0]
    if what == "info":
        print(describe(shown, verbose=False), end="")
    elif what in NOTHING_SPECIFIED:
        print(safe(text_of(shown, what)) or NOTHING_SPECIFIED[what])
    elif what == "system":
        print(safe(session.system or text_of(shown, "system")) or "No system message was specified for this model.")
    elif what == "parameters":
        lines = text_of(shown, "parameters").splitlines()
        print("Model defined parameters:")
        for line in lines or ["No additional parameters were specified for this model."]:
            print(f"  {cell(line)}")
        if session.options:
            print("\nUser defined parameters:")
            for name, value in session.options.items():
                print(f"  {name:<30} {cell(str(value))}")
        print()
    else:
        print(f"Unknown command '/show {cell(what)}'. Type /? for help")


COMMANDS: dict[str, Callable[[list[str], Session, Client], None]] = {
    "/?": _help,
    "/help": _help,
    "/list": _list,
    "/clear": _clear,
    "/load": _load,
    "/save": _save,
    "/set": _set,
    "/show": _show,
}
