"""The verbs of one machine: how each one's arguments are written, and which function does it.

Each verb imports what it needs when it runs, so that a short one starts fast.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path

from cli.verb import ADDRESS_HELP, Verb, json_argument
from node.setting_table import TABLE
from node.settings import Settings, load_settings

RUN_HELP = f"""\
{ADDRESS_HELP}\
  AYNI_HISTORY=false, OLLAMA_NOHISTORY=1   do not remember what is typed at the prompt
  EDITOR      what Ctrl+G opens

Where nothing answers on this machine, a node is started in the background.
Text that is piped in stands before the prompt; without either, a conversation begins.
"""
VERSION_TIMEOUT_S = 2.0


def _parse_bool(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return text.lower() in ("true", "1")


def _model_argument(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name of a model, e.g. demo or demo:latest")


def _prefix_argument(parser: ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only names that start with this")
    json_argument(parser)


def _serve_arguments(parser: ArgumentParser) -> None:
    for setting in TABLE:
        parser.add_argument(
            f"--{setting.key.replace('_', '-')}",
            dest=setting.key,
            default=SUPPRESS,
            metavar="VALUE",
            help=f"{setting.meaning} ({setting.allowed}; default {setting.default})".replace("%", "%%"),
        )


def _serve(arguments: Namespace) -> int:
    settings = load_settings(flags=vars(arguments))
    from api.serve import run
    from cli.version import __version__

    return run(settings, version=__version__)


def _shutdown(arguments: Namespace) -> int:
    from cli.start import shut_down

    shut_down(load_settings())
    return 0


def _run_arguments(parser: ArgumentParser) -> None:
    _model_argument(parser)
    parser.add_argument("words", nargs="*", default=(), metavar="PROMPT", help="what to ask; several words are joined")
    flag = parser.add_argument
    flag("--keepalive", default="", metavar="DURATION", help="how long the model stays loaded afterwards (e.g. 5m)")
    flag("--verbose", action="store_true", help="show timings after the reply")
    flag("--nowordwrap", action="store_true", help="do not wrap lines at words")
    flag("--format", default="", metavar="FORMAT", help="json, or a JSON schema that the reply shall match")
    flag("--think", metavar="LEVEL", help="think first: --think, --think=false, or =low, =medium, =high, =max")
    flag("--hidethinking", action="store_true", help="do not show the thinking")
    flag("--truncate", type=_parse_bool, metavar="BOOL", help="embedding models: cut an input that is too long")
    flag("--dimensions", type=int, metavar="N", help="embedding models: cut the vector to N dimensions")
    flag("--no-start", action="store_true", help="do not start a node where none answers")


def _run(arguments: Namespace) -> int:
    from cli.credential import client_for
    from cli.run import RunRequest, parse_format, parse_think, run_model
    from cli.session import Choices
    from cli.start import ensure_node
    from cli.text import parse_duration

    request = RunRequest(
        model=arguments.model,
        words=tuple(arguments.words),
        choices=Choices(
            think=parse_think(arguments.think),
            output_format=parse_format(arguments.format),
            keep_alive=parse_duration(arguments.keepalive) if arguments.keepalive else None,
            hide_thinking=arguments.hidethinking,
            wrap_words=not arguments.nowordwrap,
            verbose=arguments.verbose,
        ),
        dimensions=arguments.dimensions,
        truncate=arguments.truncate,
    )
    settings = load_settings()
    client = client_for(settings)
    if not arguments.no_start:
        ensure_node(client, settings)
    run_model(client, settings, request)
    return 0


def _list(arguments: Namespace) -> int:
    from cli.credential import client_for
    from cli.models import list_models

    list_models(client_for(load_settings()), arguments.prefix, as_json=arguments.json)
    return 0


def _ps(arguments: Namespace) -> int:
    from cli.credential import client_for
    from cli.models import list_running

    list_running(client_for(load_settings()), arguments.prefix, as_json=arguments.json)
    return 0


def _show_arguments(parser: ArgumentParser) -> None:
    _model_argument(parser)
    part = parser.add_mutually_exclusive_group()
    for name in ("license", "modelfile", "parameters", "system", "template"):
        part.add_argument(f"--{name}", dest="part", action="store_const", const=name, help=f"only the {name}")
    parser.add_argument("-v", "--verbose", action="store_true", help="all metadata and tensors too")


def _show(arguments: Namespace) -> int:
    from cli.credential import client_for
    from cli.show import show_model

    show_model(client_for(load_settings()), arguments.model, arguments.part, verbose=arguments.verbose)
    return 0


def _create_arguments(parser: ArgumentParser) -> None:
    _model_argument(parser)
    parser.add_argument("-f", "--file", type=Path, metavar="FILE", help="the Modelfile (default: ./Modelfile)")


def _create(arguments: Namespace) -> int:
    from cli.create import create_model
    from cli.credential import client_for

    create_model(client_for(load_settings()), arguments.model, arguments.file)
    return 0


def _copy_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="the model to copy")
    parser.add_argument("destination", metavar="DESTINATION", help="its second name")


def _copy(arguments: Namespace) -> int:
    from cli.credential import client_for
    from cli.models import copy_model

    copy_model(client_for(load_settings()), arguments.source, arguments.destination)
    return 0


def _remove_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="models to delete")


def _remove(arguments: Namespace) -> int:
    from cli.credential import client_for
    from cli.models import remove_models

    remove_models(client_for(load_settings()), arguments.models)
    return 0


def _stop(arguments: Namespace) -> int:
    from cli.credential import client_for
    from cli.models import stop_model

    stop_model(client_for(load_settings()), arguments.model)
    return 0


def _verify_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--prune", action="store_true", help="also remove files that no model needs")


def _verify(arguments: Namespace) -> int:
    from cli.verify import verify_store

    return verify_store(load_settings(), prune=arguments.prune)


def _version(arguments: Namespace) -> int:
    return show_version(load_settings())


def show_version(settings: Settings) -> int:
    """Print this command's version, and what answers at the node's address where that differs."""
    import sys

    from cli.credential import client_for
    from cli.errors import CommandError
    from cli.fields import text_of
    from cli.version import __version__

    print(f"ayni version is {__version__}")
    client = client_for(settings)
    try:
        answer = client.ask("GET", "/api/version", timeout_s=VERSION_TIMEOUT_S)
    except CommandError:
        print(f"Warning: no node answers at {client.address.url}", file=sys.stderr)
        return 0
    if not (ours := text_of(answer, "ayni")):
        print(f"Warning: what answers at {client.address.url} is not Ayni", file=sys.stderr)
    elif ours != __version__:
        print(f"Warning: the node's version is {ours}", file=sys.stderr)
    return 0


LOCAL_VERBS: tuple[Verb, ...] = (
    Verb("serve", "Start a node", _serve, _serve_arguments, aliases=("start",), epilog=""),
    Verb("shutdown", "Stop the node of this machine", _shutdown),
    Verb("run", "Run a model", _run, _run_arguments, epilog=RUN_HELP),
    Verb("list", "List models", _list, _prefix_argument, aliases=("ls",)),
    Verb("ps", "List models in memory", _ps, _prefix_argument),
    Verb("show", "Show information about a model", _show, _show_arguments),
    Verb("create", "Create a model from a Modelfile", _create, _create_arguments),
    Verb("cp", "Copy a model", _copy, _copy_arguments),
    Verb("rm", "Remove models", _remove, _remove_arguments),
    Verb("stop", "Take a model out of memory", _stop, _model_argument),
    Verb(
        "verify",
        "Check every stored file against its digest",
        _verify,
        _verify_arguments,
        epilog="",
    ),
    Verb("version", "Show the version", _version),
)
