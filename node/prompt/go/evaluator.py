"""Run a parsed Go text/template over a value: printed text out. Rules as of Go's text/template/exec."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, TypeAlias

from node.prompt.budget import Budget
from node.prompt.errors import TemplateError
from node.prompt.go import nodes
from node.prompt.go.functions import Misuse, functions
from node.prompt.go.lexer import Fault
from node.prompt.go.values import TooDeep, kind, look_up, text, truth

MAX_CALL_DEPTH = 50
NODE_PRICE = 4
ABSENT: Any = object()

Flow: TypeAlias = Literal["on", "break", "continue"]


def execute(template: nodes.Template, data: Any, *, now: datetime, budget: Budget) -> str:
    """Print a template over `data`. Raises TemplateError, which names the line."""
    run = Evaluation(template, now, budget)
    try:
        run.walk(template.root, data, Scope(data))
    except (RecursionError, TooDeep):
        raise TemplateError("the template, or what it prints, is nested too deeply") from None
    return "".join(run.printed)


class Scope:
    """The variables in sight: a stack, as an assignment changes the innermost of its name."""

    def __init__(self, root: Any) -> None:
        self._stack: list[tuple[str, Any]] = [("$", root)]

    def mark(self) -> int:
        """Where the stack is now, for `drop`."""
        return len(self._stack)

    def drop(self, mark: int) -> None:
        """Forget what was declared since."""
        del self._stack[mark:]

    def declare(self, name: str, value: Any) -> None:
        """`:=`."""
        self._stack.append((name, value))

    def assign(self, name: str, value: Any) -> None:
        """`=`."""
        at = next(at for at in reversed(range(len(self._stack))) if self._stack[at][0] == name)
        self._stack[at] = (name, value)

    def get(self, name: str) -> Any:
        """The parser has checked that there is one."""
        return next(value for known, value in reversed(self._stack) if known == name)


class Evaluation:
    """One run of a template."""

    def __init__(self, template: nodes.Template, now: datetime, budget: Budget) -> None:
        self.printed: list[str] = []
        self._template = template
        self._functions = functions(now, budget)
        self._budget = budget
        self._depth = 0

    def walk(self, body: nodes.Nodes, dot: Any, scope: Scope) -> Flow:
        """Print nodes; tells whether a `break` or `continue` cut them short."""
        for node in body:
            self._budget.spend(NODE_PRICE)
            flow: Flow = "on"
            match node:
                case nodes.Text(words):
                    self._print(words)
                case nodes.Action(pipe):
                    value = self._pipe(pipe, dot, scope)
                    if not pipe.declares:
                        self._print(text(value, self._budget))
                case nodes.If() | nodes.With():
                    flow = self._branch(node, dot, scope)
                case nodes.Range():
                    flow = self._range(node, dot, scope)
                case nodes.Call():
                    self._call(node, dot, scope)
                case nodes.Jump(breaks):
                    return "break" if breaks else "continue"
            if flow != "on":
                return flow
        return "on"

    def _print(self, words: str) -> None:
        self._budget.spend(len(words))
        self.printed.append(words)

    def _branch(self, node: nodes.If | nodes.With, dot: Any, scope: Scope) -> Flow:
        mark = scope.mark()
        value = self._pipe(node.pipe, dot, scope)
        if truth(value):
            flow = self.walk(node.body, value if isinstance(node, nodes.With) else dot, scope)
        else:
            flow = self.walk(node.otherwise, dot, scope)
        scope.drop(mark)
        return flow

    def _range(self, node: nodes.Range, dot: Any, scope: Scope) -> Flow:
        start = scope.mark()
        names = node.pipe.declares
        value = self._pipe(node.pipe, dot, scope, declare=False)
        empty = True
        for key, item in _pairs(value, node.pipe.line):
            empty = False
            self._budget.spend(NODE_PRICE)
            # One variable is the element, two are key and element.
            for name, bound in zip(names, (key, item) if len(names) == 2 else (item,), strict=False):
                (scope.assign if node.pipe.assigns else scope.declare)(name, bound)
            flow = self.walk(node.body, item, scope)
            scope.drop(start)
            if flow == "break":
                break
        if not empty:
            return "on"
        flow = self.walk(node.otherwise, dot, scope)
        scope.drop(start)
        return flow

    def _call(self, node: nodes.Call, dot: Any, scope: Scope) -> None:
        body = self._template.defined.get(node.name)
        if body is None:
            raise Fault(node.line, f"template {node.name!r} not defined")
        if self._depth >= MAX_CALL_DEPTH:
            raise Fault(node.line, "templates call each other too deeply")
        value = self._pipe(node.pipe, dot, scope) if node.pipe else None
        self._depth += 1
        self.walk(body, value, Scope(value))
        self._depth -= 1

    def _pipe(self, pipe: nodes.Pipe, dot: Any, scope: Scope, *, declare: bool = True) -> Any:
        value: Any = ABSENT
        for command in pipe.commands:
            value = self._command(command, value, pipe.line, dot, scope)
        if declare:
            for name in pipe.declares:
                (scope.assign if pipe.assigns else scope.declare)(name, value)
        return value

    def _command(self, command: nodes.Command, piped: Any, line: int, dot: Any, scope: Scope) -> Any:
        """One command; `piped` is the value before the `|`, the last argument."""
        head, *rest = command.args
        if isinstance(head, nodes.Function):
            if head.name in ("and", "or"):
                return self._lazily(head.name, rest, piped, line, dot, scope)
            args = [self._operand(arg, line, dot, scope) for arg in rest]
            return self._apply(head.name, args if piped is ABSENT else [*args, piped], line)
        if rest or piped is not ABSENT:
            raise Fault(line, "can't give argument to a value that is no function")
        return self._operand(head, line, dot, scope)

    def _apply(self, name: str, args: list[Any], line: int) -> Any:
        self._budget.spend(NODE_PRICE)
        try:
            return self._functions[name](*args)
        except Misuse as error:
            raise Fault(line, f"error calling {name}: {error}") from None
        except TypeError:
            raise Fault(line, f"wrong number of args for {name}: got {len(args)}") from None

    def _lazily(self, name: str, rest: list[nodes.Operand], piped: Any, line: int, dot: Any, scope: Scope) -> Any:
        """`and` and `or` give the argument that decides, and leave the others alone."""
        value: Any = ABSENT
        for arg in rest:
            value = self._operand(arg, line, dot, scope)
            if truth(value) == (name == "or"):
                return value
        if piped is not ABSENT:
            return piped
        if value is ABSENT:
            raise Fault(line, f"wrong number of args for {name}: want at least 1 got 0")
        return value

    def _operand(self, operand: nodes.Operand, line: int, dot: Any, scope: Scope) -> Any:
        self._budget.spend(1)
        match operand:
            case nodes.Literal(value):
                return value
            case nodes.Dot():
                return dot
            case nodes.Field(names):
                return _descend(dot, names, line)
            case nodes.Variable(name, names):
                return _descend(scope.get(name), names, line)
            case nodes.Chain(pipe, names):
                return _descend(self._pipe(pipe, dot, scope), names, line)
            case nodes.Function(name):
                return self._apply(name, [], line)
            case nodes.Pipe():
                return self._pipe(operand, dot, scope)


def _descend(value: Any, names: Iterable[str], line: int) -> Any:
    for name in names:
        value = look_up(value, name, lambda message: Fault(line, message))
    return value


def _pairs(value: Any, line: int) -> Iterable[tuple[Any, Any]]:
    """What a `range` goes over; maps in the order of their keys."""
    if value is None:
        return ()
    if isinstance(value, list):
        return enumerate(value)
    if isinstance(value, dict):
        return ((key, value[key]) for key in sorted(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return ((number, number) for number in range(value))
    raise Fault(line, f"range can't iterate over {kind(value)}")
