"""The syntax tree of a Go text/template; every node that can fail knows its line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number, truth value or nil."""

    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Dot:
    """The value at hand."""


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`: looked up in the value at hand."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.A.B`; the name "$" is the data of the whole template."""

    name: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """`(pipeline).A.B`."""

    of: Pipe
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """A function's name at the head of a command."""

    name: str


Operand: TypeAlias = "Literal | Dot | Field | Variable | Chain | Function | Pipe"


@dataclass(frozen=True, slots=True)
class Command:
    """An operand and what it is applied to."""

    args: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pipe:
    """`$a, $b := command | command`; `assigns` for `=` instead of `:=`."""

    line: int
    declares: tuple[str, ...]
    assigns: bool
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Printed as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipeline }}`: printed unless it only declares."""

    pipe: Pipe


@dataclass(frozen=True, slots=True)
class If:
    """`{{ if }}`; an `else if` is an If alone in `otherwise`."""

    pipe: Pipe
    body: Nodes
    otherwise: Nodes


@dataclass(frozen=True, slots=True)
class With:
    """`{{ with }}`."""

    pipe: Pipe
    body: Nodes
    otherwise: Nodes


@dataclass(frozen=True, slots=True)
class Range:
    """`{{ range }}`."""

    pipe: Pipe
    body: Nodes
    otherwise: Nodes


@dataclass(frozen=True, slots=True)
class Call:
    """`{{ template "name" pipeline }}`."""

    line: int
    name: str
    pipe: Pipe | None


@dataclass(frozen=True, slots=True)
class Jump:
    """`{{ break }}` or `{{ continue }}`."""

    breaks: bool


Branch: TypeAlias = If | With | Range
Node: TypeAlias = Text | Action | If | With | Range | Call | Jump
Nodes: TypeAlias = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template and those that it defines."""

    root: Nodes
    defined: dict[str, Nodes]

    def names(self) -> frozenset[str]:
        """Every field name and variable that occurs."""
        trees = (self.root, *self.defined.values())
        return frozenset(name for tree in trees for pipe in pipes(tree) for name in names_in(pipe))


def pipes(nodes: Nodes) -> Iterator[Pipe]:
    """Every pipeline of some nodes, outermost first."""
    for node in nodes:
        match node:
            case Action(pipe):
                yield pipe
            case If(pipe, body, otherwise) | With(pipe, body, otherwise) | Range(pipe, body, otherwise):
                yield pipe
                yield from pipes(body)
                yield from pipes(otherwise)
            case Call(_, _, pipe) if pipe is not None:
                yield pipe


def names_in(pipe: Pipe) -> Iterator[str]:
    """Every field name and variable of a pipeline."""
    for command in pipe.commands:
        for arg in command.args:
            match arg:
                case Field(names):
                    yield from names
                case Variable(name, names):
                    yield name
                    yield from names
                case Chain(inner, names):
                    yield from names
                    yield from names_in(inner)
                case Pipe():
                    yield from names_in(arg)
