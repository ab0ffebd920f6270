"""Take a command line, find its verb, and turn what goes wrong into one line on stderr and the exit status 1."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from cli.cluster_verbs import CLUSTER_VERBS
from cli.errors import CommandError, UsageError
from cli.text import cell
from cli.verb import Verb
from cli.verbs import LOCAL_VERBS
from node.errors import InvalidSetting

VERBS = (*LOCAL_VERBS, *CLUSTER_VERBS)
INTERRUPTED = 130  # what shells report for a command ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ayni` with these arguments (None: the process's own); returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        # Models and files hold text that not every terminal can show; that must not end a reply.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        _forget_output()
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except CommandError as error:
        return _complain(str(error), error.hint)
    except InvalidSetting as error:
        return _complain(str(error))
    except OSError as error:  # our output's disk is full, say; what concerns one verb has its own words
        _forget_output()
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    return status


def _forget_output() -> None:
    """Keep Python from complaining again when it flushes stdout at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dispatch(arguments: list[str]) -> int:
    """Do what the arguments ask for. Raises CommandError, InvalidSetting, KeyboardInterrupt, BrokenPipeError."""
    match arguments:
        case [] | ["-h" | "--help"] | ["help"]:
            print(overview(), end="")
            return 0
        case ["help", *name]:
            return _act([*name, "--help"])
        case ["-v" | "--version", *_]:
            return _act(["version"])
    return _act(arguments)


def _act(arguments: list[str]) -> int:
    family = _family(arguments[0])
    if family and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(f"Usage:\n  ayni {arguments[0]} COMMAND [ARGUMENTS]\n\nCommands:\n{_listed(family)}", end="")
        return 0
    words = 2 if family else 1
    verb = find_verb(" ".join(arguments[:words]))
    return verb.act(verb.parse(arguments[words:]))


def _family(name: str) -> tuple[Verb, ...]:
    """The verbs whose first word is `name`, where that alone is none."""
    return tuple(verb for verb in VERBS if verb.name.startswith(f"{name} "))


def find_verb(name: str) -> Verb:
    """The verb of that name or alias. Raises UsageError."""
    for verb in VERBS:
        if name == verb.name or name in verb.aliases:
            return verb
    family, _, member = name.rpartition(" ")
    above = f"ayni {family}".rstrip()
    raise UsageError(f'unknown command "{cell(member)}" for "{above}"', f"See: {above} --help")


def overview() -> str:
    """What `ayni` alone prints."""
    here = Verb("help", "Help about any command", lambda arguments: 0)
    return (
        "Pools the computers of a home or office into one private LLM service.\n\n"
        "Usage:\n  ayni COMMAND [ARGUMENTS]\n\n"
        f"Commands:\n{_listed((*LOCAL_VERBS, here))}\n"
        f"Several machines as one:\n{_listed(CLUSTER_VERBS)}\n"
        "Flags:\n  -h, --help      Show this\n  -v, --version   Show the version\n\n"
        'See `ayni COMMAND --help` for one command. A first question: ayni run demo "What is Ayni?"\n'
    )


def _listed(verbs: Sequence[Verb]) -> str:
    width = max(len(verb.name) for verb in verbs)
    return "".join(f"  {verb.name:<{width}}   {verb.summary}\n" for verb in verbs)


def _complain(message: str, hint: str = "") -> int:
    print(f"Error: {message}", *([hint] if hint else []), sep="\n", file=sys.stderr)
    return 1
