"""What a verb of the command is: a name, how its arguments are written, and the function that does it.

Which exist is told by the tables in `cli.verbs` and `cli.cluster_verbs`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from cli.errors import UsageError

ADDRESS_HELP = """\
environment:
  AYNI_HOST        where the node is (OLLAMA_HOST is honoured too; default 127.0.0.1:11434)
  OLLAMA_API_KEY   a token, for a LAN port: AYNI_HOST=https://home.local:11435
"""
# Flags whose value may be left out: it has to be joined by "=", lest a prompt be taken for it.
OPTIONAL_VALUE_FLAGS = ("--think", "--truncate")


class VerbParser(ArgumentParser):
    """Reports mistakes as UsageError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(message, f"See: {self.prog} --help")


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing the command can do. `act` returns the exit status.

    A name of two words ("cluster invite") makes the verb a member of a family.
    """

    name: str
    summary: str
    act: Callable[[Namespace], int]
    add_arguments: Callable[[ArgumentParser], None] = lambda parser: None
    aliases: tuple[str, ...] = ()
    epilog: str = ADDRESS_HELP

    def parse(self, arguments: list[str]) -> Namespace:
        """Raises UsageError; --help prints and ends the process."""
        parser = VerbParser(
            prog=f"ayni {self.name}",
            description=self.summary + ".",
            epilog=self.epilog,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_arguments(parser)
        return parser.parse_intermixed_args(_join_optional_values(arguments))


def json_argument(parser: ArgumentParser) -> None:
    """The flag of every verb that lists something."""
    parser.add_argument("--json", action="store_true", help="print the node's answer as JSON, for programs")


def _join_optional_values(arguments: list[str]) -> list[str]:
    """A bare `--think` becomes `--think=true`, so that the word after it stays a word."""
    flags_end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = (f"{word}=true" if word in OPTIONAL_VALUE_FLAGS else word for word in arguments[:flags_end])
    return [*flags, *arguments[flags_end:]]
