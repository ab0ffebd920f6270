"""Jinja for chat templates that came with somebody's model file: it can compute text, within bounds, and no more.

Jinja's own sandbox keeps a template away from Python's internals and from changing what it is given. It does not
bound work, so here also
  - every loop turn, macro call and piece of text costs from one budget (the syntax tree is rewritten to pay);
  - only the filters, and the methods of strings, dicts and lists, that chat templates use are there, those which
    can blow up a short text (`replace`, `*`, `format`, ...) with a check in front;
  - a wall-clock limit stands behind the budget.
A template can't read files, import others or see anything but what it is given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from node.prompt.budget import MAX_TEMPLATE_CHARS, Budget
from node.prompt.errors import TemplateError

LOOP_TURN = 8
MAX_SECONDS = 10.0
MAX_INDENT = 256
# Numbers are for counting messages; this is far beyond any use and cheap to compute with.
MAX_INT_BITS = 256


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FILTERS = _words(
    """abs attr capitalize count d default dictsort e escape first float forceescape groupby int items last length
    list lower map max min reject rejectattr reverse round safe select selectattr sort title trim unique upper
    wordcount"""
)
METHODS: dict[type, frozenset[str]] = {
    str: _words(
        """capitalize casefold count endswith find format index isalnum isalpha isdecimal isdigit islower isnumeric
        isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition
        rsplit rstrip split splitlines startswith strip swapcase title upper"""
    ),
    dict: _words("get items keys values"),
    list: _words("count index"),
    tuple: _words("count index"),
}
WIDE_FORMAT = re.compile(r"\d{4}|\*|\{[^}]*\{")


class Refused(Exception):
    """`raise_exception` was called: the template does not want these messages."""


_budget: ContextVar[Budget] = ContextVar("budget")


def _paid(value: Any) -> Any:
    """Pay for a new value with all that is in it.

    A list holds its parts by reference, so a short template can make one whose text, or comparison, would take
    for ever; paying for every part each time it is put into something stops that at its making.
    """
    if isinstance(value, str):
        _budget.get().spend(len(value))
    elif isinstance(value, list | tuple | dict):
        _pay_for_parts(value, _budget.get())
    return value


def _pay_for_parts(value: list[Any] | tuple[Any, ...] | dict[Any, Any], budget: Budget) -> None:
    budget.spend(1 + len(value))
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, list | tuple | dict):
            _pay_for_parts(part, budget)


def _text(value: Any) -> str:
    """What is printed for a value."""
    if isinstance(value, str):
        text = value
    elif value is None or isinstance(value, bool | int | float | jinja2.Undefined):
        text = str(value)
    elif isinstance(value, list | tuple | dict):
        # As Python writes it, which some templates rely on; JSON-like parts only.
        text = type(value).__name__ if _holds_others(value) else str(value)
    else:
        text = f"<{type(value).__name__}>"
    _budget.get().spend(len(text))
    return text


def _holds_others(value: list[Any] | tuple[Any, ...] | dict[Any, Any]) -> bool:
    """Whether something other than plain data is in a container; the text of that has no bound."""
    _budget.get().spend(1 + len(value))
    for part in (*value, *value.values()) if isinstance(value, dict) else value:
        if isinstance(part, list | tuple | dict):
            if _holds_others(part):
                return True
        elif not (part is None or isinstance(part, str | bool | int | float | jinja2.Undefined)):
            return True
    return False


def _check_format(text: Any) -> None:
    if isinstance(text, str) and WIDE_FORMAT.search(text):
        raise TemplateError("the chat template formats with an excessive width")


def _replace(text: str, old: str, new: str, count: int | None = -1) -> str:
    hits = text.count(old)
    count = hits if count is None or count < 0 else min(count, hits)
    _budget.get().spend(len(text) + count * len(new))
    return text.replace(old, new, count)


def _join(separator: str, parts: Iterable[Any]) -> str:
    parts = [_text(part) for part in parts]
    _budget.get().spend(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """`tojson` as transformers defines it for chat templates: nothing is escaped for HTML."""
    if isinstance(indent, str) or (isinstance(indent, int) and not 0 <= indent <= 16):
        raise TemplateError("the chat template uses an excessive indentation")
    if separators is not None and sum(map(len, separators)) > 16:
        raise TemplateError("the chat template uses excessive separators")
    if isinstance(value, Generator):
        value = list(value)
    _paid(value)
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_unknown
    )
    _budget.get().spend(len(text))
    return text


def _unknown(value: object) -> NoReturn:
    raise TemplateError(f"the chat template turns a {type(value).__name__} into JSON")


class GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks what a model is trained on, prints its body."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        """Replace the block by its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Meter(NodeTransformer):
    """Makes loops, macros and concatenations pay; constant text in a loop is paid at each turn."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - named by jinja2
        """Pay for each turn."""
        return self._pay(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        """Pay for each call."""
        return self._pay(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        """Pay for each call of the caller."""
        return self._pay(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """`a ~ b` by a function that pays."""
        parts = nodes.List([self.visit(child) for child in node.nodes], lineno=node.lineno)
        return _call_environment("concatenate", parts, node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        """Pay for what is put together."""
        return _call_environment("paid", self.generic_visit(node), node.lineno)

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        """Pay for what is put together; a tuple of targets is no value."""
        visited = self.generic_visit(node)
        return visited if node.ctx == "store" else _call_environment("paid", visited, node.lineno)

    def _pay(self, node: Any) -> nodes.Node:
        constant = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        price = nodes.Const(LOOP_TURN + constant, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(_call_environment("pay", price, node.lineno), lineno=node.lineno))
        return node  # type: ignore[no-any-return]


def _call_environment(method: str, argument: Any, line: int) -> nodes.Call:
    """A call that no assignment in the template can redirect."""
    target = nodes.EnvironmentAttribute(method, lineno=line)
    return nodes.Call(target, [argument], [], None, None, lineno=line)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox that this module's docstring describes."""

    intercepted_binops = frozenset(["+", "*", "**", "%", "//", "-", "/"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            cache_size=0,
            extensions=[loopcontrols, GenerationTag],
            finalize=jinja2.pass_context(_print),
        )
        available = {name: self._pay_for_result(self.filters[name]) for name in FILTERS}
        available |= {
            "tojson": to_json,
            "string": _text,
            "replace": lambda value, old, new, count=None: _replace(str(value), str(old), str(new), count),
            "join": self._join_filter,
            "indent": self._indent_filter,
            "format": self._format_filter,
        }
        self.filters = available
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace", "joiner", "cycler")}
        self.globals["raise_exception"] = _raise_exception

    def pay(self, units: int) -> str:
        """Called by rewritten templates at each turn of a loop."""
        _budget.get().spend(units)
        return ""

    def paid(self, value: Any) -> Any:
        """Called by rewritten templates with each list or dictionary that they put together."""
        return _paid(value)

    def concatenate(self, parts: list[Any]) -> str:
        """`a ~ b ~ c` in rewritten templates."""
        return _join("", parts)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only the methods that chat templates use."""
        allowed = next((names for kind, names in METHODS.items() if isinstance(obj, kind)), None)
        if allowed is not None and attr not in allowed:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function, or a method in its bounded form; its result is paid for."""
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return _replace(owner, *args)
        if isinstance(owner, str) and name == "join":
            return _join(owner, *args)
        _budget.get().spend(1)
        return _paid(super().call(context, obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format`, its widths checked."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic on numbers of moderate size and on text of a size that is paid for."""
        for operand in (left, right):
            if isinstance(operand, int) and operand.bit_length() > MAX_INT_BITS:
                raise TemplateError("the chat template computes with excessive numbers")
        if operator == "**" and not (isinstance(right, int | float) and abs(right) <= MAX_INT_BITS):
            raise TemplateError("the chat template computes with excessive numbers")
        if operator == "%":
            _check_format(left)
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and isinstance(times, int):
                    _budget.get().spend(len(text) * max(times, 0))
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _budget.get().spend(len(left) + len(right))
        return _paid(super().call_binop(context, operator, left, right))

    @staticmethod
    def _pay_for_result(function: Callable[..., Any]) -> Callable[..., Any]:
        # Jinja passes the environment or context by a mark on the function, so the mark has to move along.
        def paying(*args: Any, **kwargs: Any) -> Any:
            _budget.get().spend(1)
            return _paid(function(*args, **kwargs))

        if hasattr(function, "jinja_pass_arg"):
            paying.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
        return paying

    @staticmethod
    def _join_filter(value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        if attribute is not None:
            value = [part.get(attribute, "") if isinstance(part, Mapping) else "" for part in value]
        return _join(str(d), value)

    @staticmethod
    def _indent_filter(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        pad = width if isinstance(width, str) else " " * min(width, MAX_INDENT)
        lines = str(s).split("\n")
        _budget.get().spend(len(s) + len(pad) * len(lines))
        padded = [pad + line if (line or blank) and (number or first) else line for number, line in enumerate(lines)]
        return "\n".join(padded)

    @staticmethod
    def _format_filter(value: str, *args: Any, **kwargs: Any) -> str:
        _check_format(value)
        return str(_paid(str(value) % (kwargs or args)))


def _print(_: Context, value: Any) -> str:
    return _text(value)


def _raise_exception(message: object) -> NoReturn:
    raise Refused(str(message))


class JinjaTemplate:
    """A compiled chat template. Raises TemplateError where it can't be compiled."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise TemplateError("the chat template is too long")
        environment = ChatEnvironment()
        token = _budget.set(Budget())
        try:
            tree = Meter().visit(environment.parse(source))
            self._template = jinja2.Template.from_code(
                environment, environment.compile(tree), environment.make_globals(None)
            )
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"chat template, line {error.lineno}: {error.message}") from None
        except (RecursionError, jinja2.TemplateError, SyntaxError, ValueError, MemoryError) as error:
            raise TemplateError(f"the chat template can't be compiled: {type(error).__name__}") from None
        finally:
            _budget.reset(token)

    def render(self, values: Mapping[str, Any], *, now: datetime, input_chars: int) -> str:
        """Render.

        Args:
            values: what the template sees, JSON-like; not changed.
            now: what `strftime_now` tells.
            input_chars: length of the text in `values`; the work allowed grows with it.
        Raises: Refused: the template called `raise_exception`. TemplateError: anything else went wrong.
        """
        budget = Budget(input_chars)
        token = _budget.set(budget)
        try:
            pieces = []
            for piece in self._template.generate(**values, strftime_now=now.strftime):
                budget.spend(len(piece))
                pieces.append(piece)
            return "".join(pieces)
        except (Refused, TemplateError):
            raise
        except RecursionError:
            raise TemplateError("the chat template calls itself too deeply") from None
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise TemplateError(f"chat template: {error}") from error
        finally:
            _budget.reset(token)
