"""The verbs of several machines: how each one's arguments are written, and which function does it.

Each verb imports what it needs when it runs, so that a short one starts fast.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any

from cli.verb import ADDRESS_HELP, Verb, json_argument
from node.settings import load_settings

if TYPE_CHECKING:
    from cli.client import Client

SCOPES = ("infer", "models", "metrics", "admin")
JOIN_HELP = f"""\
{ADDRESS_HELP}
The line comes from `ayni cluster invite` on a machine of the cluster. Without LINE, or with "-", it is read from
the terminal or a pipe; as an argument, other users of this machine can see it for as long as this command runs.
Where nothing answers on this machine, a node is started in the background.
"""
CREATE_HELP = f"""\
{ADDRESS_HELP}
Where nothing answers on this machine, a node is started in the background.
"""
TOKEN_HELP = f"""\
{ADDRESS_HELP}
scopes:
  infer    ask models
  models   create, copy and remove them, and the like
  metrics  read /metrics, for Prometheus
  admin    everything a client can do, tokens and members included
"""


def _client() -> Client:
    from cli.credential import client_for

    return client_for(load_settings())


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**12):
        raise ArgumentTypeError(f"must be a positive number, not {text!r}")
    return int(text)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= 1000:  # "nan" is not either
        raise ArgumentTypeError(f"must be a number above 0, at most 1000, not {text!r}")
    return weight


def _priority(text: str) -> int:
    try:
        priority = int(text)
    except ValueError:
        priority = 100
    if not -4 <= priority <= 4:
        raise ArgumentTypeError(f"must be a whole number from -4 to 4, not {text!r}")
    return priority


def _named(text: str) -> str:
    if not text.strip(" ,"):
        raise ArgumentTypeError("must not be empty")
    return text


def _lifetime(text: str) -> int:
    from cli.errors import UsageError
    from cli.text import parse_lifetime

    try:
        return parse_lifetime(text)
    except UsageError as error:
        raise ArgumentTypeError(str(error)) from None


def _words(values: list[str]) -> tuple[str, ...]:
    """The words of a flag that may be repeated and may hold several, with commas."""
    return tuple(dict.fromkeys(word.strip() for value in values for word in value.split(",") if word.strip()))


def _name_argument(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a-z, 0-9 and -, as clients will reach it at NAME.local")


def _node_argument(parser: ArgumentParser) -> None:
    parser.add_argument("node", type=_named, metavar="NODE", help="name or id of a machine, as `ayni nodes` shows it")


def _create(arguments: Namespace) -> int:
    from cli.cluster import create_cluster
    from cli.credential import client_for

    settings = load_settings()
    create_cluster(client_for(settings), settings, arguments.name)
    return 0


def _invite_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--expires", type=_lifetime, metavar="DURATION", help="how long it counts (default 15m)")
    parser.add_argument("--uses", type=_count, metavar="N", help="how many machines may join with it (default 1)")
    parser.add_argument("--plain", action="store_true", help="who joins gets no root key: it can't invite")


def _invite(arguments: Namespace) -> int:
    from cli.cluster import invite

    invite(_client(), expires_s=arguments.expires, uses=arguments.uses, plain=arguments.plain)
    return 0


def _status(arguments: Namespace) -> int:
    from cli.cluster import show_status

    show_status(_client(), as_json=arguments.json)
    return 0


def _leave(arguments: Namespace) -> int:
    from cli.cluster import leave

    leave(_client())
    return 0


def _remove(arguments: Namespace) -> int:
    from cli.cluster import remove

    remove(_client(), arguments.node)
    return 0


def _rename(arguments: Namespace) -> int:
    from cli.cluster import rename

    rename(_client(), arguments.name)
    return 0


def _join_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="LINE", help="the invitation; - reads it from stdin")


def _join(arguments: Namespace) -> int:
    from cli.cluster import join
    from cli.credential import client_for

    settings = load_settings()
    join(client_for(settings), settings, arguments.words)
    return 0


def _nodes(arguments: Namespace) -> int:
    from cli.cluster import list_nodes

    list_nodes(_client(), as_json=arguments.json)
    return 0


def _discover(arguments: Namespace) -> int:
    from cli.cluster import discover

    discover(_client(), as_json=arguments.json)
    return 0


def _token_arguments(parser: ArgumentParser) -> None:
    flag = parser.add_argument
    flag("name", type=_named, metavar="NAME", help="whose it is, e.g. anna-laptop; shown in lists and logs")
    several: dict[str, Any] = {"type": _named, "action": "append", "default": []}
    flag("--scope", **several, metavar="SCOPE", help="infer (default), models, metrics, admin; repeatable")
    flag("--models", **several, metavar="PATTERN", help="only these, e.g. 'llama*'; repeatable")
    flag("--rpm", type=_count, metavar="N", help="requests a minute at most")
    flag("--tpm", type=_count, metavar="N", help="tokens a minute at most")
    flag("--max-parallel", type=_count, metavar="N", help="requests at the same time at most")
    flag("--expires", type=_lifetime, default="30d", metavar="DURATION", help="how long it counts (default 30d)")
    flag("--weight", type=_weight, metavar="X", help="share of a busy queue, relative to other tokens (default 1)")
    flag("--priority", type=_priority, metavar="N", help="-4 to 4; each step is four times the share (default 0)")


def _token_create(arguments: Namespace) -> int:
    from cli.errors import UsageError
    from cli.tokens import TokenRequest, create_token

    scopes = _words(arguments.scope) or ("infer",)
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise UsageError(f"no such scope: '{unknown[0]}' (there are {', '.join(SCOPES)})")
    request = TokenRequest(
        name=arguments.name,
        scopes=scopes,
        models=_words(arguments.models),
        rpm=arguments.rpm,
        tpm=arguments.tpm,
        max_parallel=arguments.max_parallel,
        expires_s=arguments.expires,
        weight=arguments.weight,
        priority=arguments.priority,
    )
    create_token(_client(), request)
    return 0


def _token_list(arguments: Namespace) -> int:
    from cli.tokens import list_tokens

    list_tokens(_client(), as_json=arguments.json)
    return 0


def _which_argument(parser: ArgumentParser) -> None:
    parser.add_argument("which", type=_named, metavar="NAME-OR-ID", help="a token, as `ayni token list` shows it")


def _token_revoke(arguments: Namespace) -> int:
    from cli.tokens import revoke_token

    revoke_token(_client(), arguments.which)
    return 0


def _explain_arguments(parser: ArgumentParser) -> None:
    _model_argument(parser)
    json_argument(parser)
    parser.add_argument("--prompt-tokens", type=_count, metavar="N", help="how long the prompt would be")
    parser.add_argument("--num-ctx", type=_count, metavar="N", help="the context it would ask for")


def _explain(arguments: Namespace) -> int:
    from cli.steering import explain

    explain(
        _client(),
        arguments.model,
        prompt_tokens=arguments.prompt_tokens,
        num_ctx=arguments.num_ctx,
        as_json=arguments.json,
    )
    return 0


def _drain_arguments(parser: ArgumentParser) -> None:
    _node_argument(parser)
    parser.add_argument("--undo", action="store_true", help="take it back into service")


def _drain(arguments: Namespace) -> int:
    from cli.steering import drain

    drain(_client(), arguments.node, undo=arguments.undo)
    return 0


def _undrain(arguments: Namespace) -> int:
    from cli.steering import drain

    drain(_client(), arguments.node, undo=True)
    return 0


def _pin_arguments(parser: ArgumentParser) -> None:
    _model_argument(parser)
    how = parser.add_mutually_exclusive_group()
    several: dict[str, Any] = {"type": _named, "action": "append", "default": []}
    how.add_argument("--nodes", **several, metavar="NODE,NODE", help="only on these machines")
    how.add_argument("--remove", action="store_true", help="pin it no longer")


def _pin(arguments: Namespace) -> int:
    from cli.steering import pin, unpin

    if arguments.remove:
        unpin(_client(), arguments.model)
    else:
        pin(_client(), arguments.model, _words(arguments.nodes))
    return 0


def _model_argument(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name of a model")


def _unpin(arguments: Namespace) -> int:
    from cli.steering import unpin

    unpin(_client(), arguments.model)
    return 0


def _demo_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--nodes", type=_count, default=3, metavar="N", help="how many, from 2 to 8 (default 3)")
    parser.add_argument("--ray", action="store_true", help="with a Ray session too, which takes longer")
    parser.add_argument("--keep-logs", action="store_true", help="keep the nodes' folder, and say where it is")


def _demo(arguments: Namespace) -> int:
    from cli.demo_cluster import show_cluster

    return show_cluster(arguments.nodes, with_ray=arguments.ray, keep_folder=arguments.keep_logs)


CLUSTER_VERBS: tuple[Verb, ...] = (
    Verb("cluster create", "Make this machine the first of a new cluster", _create, _name_argument, epilog=CREATE_HELP),
    Verb("cluster invite", "Print a line with which a machine can join", _invite, _invite_arguments),
    Verb("join", "Join a cluster with an invitation", _join, _join_arguments, epilog=JOIN_HELP),
    Verb("nodes", "List the cluster's machines", _nodes, json_argument),
    Verb("cluster status", "Show what this machine is part of", _status, json_argument),
    Verb("cluster leave", "Take this machine out of its cluster", _leave),
    Verb("cluster remove", "Take another machine out of the cluster, for good", _remove, _node_argument),
    Verb("cluster rename", "Give the cluster another name", _rename, _name_argument),
    Verb("discover", "List machines that announce themselves on the network", _discover, json_argument),
    Verb("token create", "Make a token for a person or a program", _token_create, _token_arguments, epilog=TOKEN_HELP),
    Verb("token list", "List tokens", _token_list, json_argument),
    Verb("token revoke", "Have a token refused from now on", _token_revoke, _which_argument),
    Verb("explain", "Show where a request would go, and why", _explain, _explain_arguments),
    Verb("drain", "Move work away from a machine", _drain, _drain_arguments),
    Verb("undrain", "Take a machine back into service", _undrain, _node_argument),
    Verb("pin", "Keep a model in memory", _pin, _pin_arguments),
    Verb("unpin", "Let a model leave memory again when it is idle", _unpin, _model_argument),
    Verb("demo-cluster", "Show a cluster on this one machine, and one node's death", _demo, _demo_arguments, epilog=""),
)
