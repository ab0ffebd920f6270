"""Parse a Go text/template. The grammar is that of Go's text/template/parse, up to Go 1.24."""

from __future__ import annotations

from node.prompt.budget import MAX_TEMPLATE_CHARS
from node.prompt.errors import TemplateError
from node.prompt.go.lexer import Fault, Token, tokens
from node.prompt.go.nodes import (
    Action,
    Call,
    Chain,
    Command,
    Dot,
    Field,
    Function,
    If,
    Jump,
    Literal,
    Node,
    Nodes,
    Operand,
    Pipe,
    Range,
    Template,
    Text,
    Variable,
    With,
)

KEYWORDS = frozenset(["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"])
CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "nil": None}
BRANCHES: dict[str, type[If | With | Range]] = {"if": If, "with": With, "range": Range}


def parse(source: str, functions: frozenset[str]) -> Template:
    """Parse a template that may call these functions. Raises TemplateError, which names the line."""
    if len(source) > MAX_TEMPLATE_CHARS:
        raise TemplateError("the template is too long")
    try:
        return Parser(list(tokens(source)), functions).template()
    except RecursionError:
        raise TemplateError("the template is nested too deeply") from None


class Parser:
    """Recursive descent over the tokens; one use."""

    def __init__(self, tokens: list[Token], functions: frozenset[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._functions = functions
        self._defined: dict[str, Nodes] = {}
        # Names of the variables in scope: "$" and those declared since.
        self._scope = ["$"]
        self._loops = 0

    def template(self) -> Template:
        """The whole."""
        body, end = self._nodes()
        if end is not None:
            raise Fault(end.line, f"unexpected {{{{{end.text}}}}}")
        return Template(body, self._defined)

    def _nodes(self) -> tuple[Nodes, Token | None]:
        """Nodes up to an `end` or `else` (returned, its action still open), or to the end of the template."""
        nodes: list[Node] = []
        while True:
            token = self._next()
            if token.kind == "end":
                return tuple(nodes), None
            if token.kind == "text":
                nodes.append(Text(token.text))
                continue
            word = self._peek_past_space()
            if word.kind == "word" and word.text in ("end", "else"):
                self._skip_space()
                return tuple(nodes), self._next()
            if (node := self._action()) is not None:
                nodes.append(node)

    def _action(self) -> Node | None:
        """One action, after its `{{`; None for a definition."""
        self._skip_space()
        token = self._peek()
        if token.kind != "word" or token.text not in KEYWORDS:
            return Action(self._pipe_to_close(token.line, declares=1))
        self._next()
        match token.text:
            case "if" | "with" | "range":
                return self._branch(token)
            case "define":
                self._define(token)
                return None
            case "template":
                return self._call(token)
            case "block":
                return self._block(token)
        if not self._loops:
            raise Fault(token.line, f"{{{{{token.text}}}}} outside of {{{{range}}}}")
        self._close(token)
        return Jump(token.text == "break")

    def _branch(self, word: Token) -> Node:
        """`if`, `with` or `range`, up to its `end`; an `else if` nests."""
        kept = len(self._scope)
        loop = word.text == "range"
        pipe = self._pipe_to_close(word.line, declares=2 if loop else 1)
        self._loops += loop
        body, end = self._nodes()
        self._loops -= loop
        otherwise: Nodes = ()
        if end is not None and end.text == "else":
            self._skip_space()
            after = self._peek()
            if after.kind == "word" and after.text == word.text and not loop:
                self._next()
                otherwise = (self._branch(after),)
                del self._scope[kept:]
                return BRANCHES[word.text](pipe, body, otherwise)
            self._close(end)
            otherwise, end = self._nodes()
        del self._scope[kept:]
        self._ends(word, end)
        return BRANCHES[word.text](pipe, body, otherwise)

    def _ends(self, word: Token, end: Token | None) -> None:
        if end is None:
            raise Fault(word.line, f"{{{{{word.text}}}}} without {{{{end}}}}")
        if end.text != "end":
            raise Fault(end.line, "unexpected {{else}}")
        self._close(end)

    def _define(self, word: Token) -> None:
        name = self._name(word)
        self._close(word)
        self._defined[name] = self._own_body(word)

    def _own_body(self, word: Token) -> Nodes:
        """The body of a template of its own, which sees no variables from outside."""
        scope, loops = self._scope, self._loops
        self._scope, self._loops = ["$"], 0
        body, end = self._nodes()
        self._ends(word, end)
        self._scope, self._loops = scope, loops
        return body

    def _call(self, word: Token) -> Call:
        name = self._name(word)
        self._skip_space()
        if self._peek().kind == "close":
            self._next()
            return Call(word.line, name, None)
        return Call(word.line, name, self._pipe_to_close(word.line, declares=1))

    def _block(self, word: Token) -> Call:
        name = self._name(word)
        pipe = self._pipe_to_close(word.line, declares=1)
        self._defined.setdefault(name, self._own_body(word))
        return Call(word.line, name, pipe)

    def _name(self, word: Token) -> str:
        self._skip_space()
        token = self._next()
        if token.kind != "string" or not isinstance(token.value, str):
            raise Fault(word.line, f"{{{{{word.text}}}}} needs a quoted name")
        return token.value

    def _pipe_to_close(self, line: int, *, declares: int) -> Pipe:
        pipe = self._pipe(line, declares=declares)
        self._close(Token("open", "", line))
        return pipe

    def _pipe(self, line: int, *, declares: int) -> Pipe:
        """`$a, $b := command | command`; stops before what ends it."""
        names, assigns = self._declaration(declares)
        commands: list[Command] = []
        while True:
            commands.append(self._command(line, first=not commands))
            self._skip_space()
            if self._peek().text != "|":
                break
            self._next()
        for name in names:
            if assigns and name not in self._scope:
                raise Fault(line, f"undefined variable {name!r}")
        if not assigns:
            self._scope += names
        return Pipe(line, names, assigns, tuple(commands))

    def _declaration(self, most: int) -> tuple[tuple[str, ...], bool]:
        """The variables before `:=` or `=`; nothing is consumed where there are none."""
        start = self._at
        names: list[str] = []
        while len(names) < most:
            self._skip_space()
            token = self._next()
            if token.kind != "variable":
                break
            names.append(token.text)
            self._skip_space()
            mark = self._next()
            if mark.text in (":=", "="):
                return tuple(names), mark.text == "="
            if mark.text != ",":
                break
        self._at = start
        return (), False

    def _command(self, line: int, *, first: bool) -> Command:
        """Operands separated by space."""
        args: list[Operand] = []
        while True:
            spaced = self._skip_space()
            token = self._peek()
            if token.kind in ("close", "end") or token.text in ("|", ")"):
                break
            if args and not spaced:
                raise Fault(token.line, f"unexpected {token.text!r} after an operand")
            args.append(self._operand())
        if not args:
            raise Fault(line, "a command is missing")
        if args[0] == Literal(None):
            raise Fault(line, "nil is not a command")
        if not first and isinstance(args[0], Literal | Dot):
            raise Fault(line, "a value can't follow a pipe")
        return Command(tuple(args))

    def _operand(self) -> Operand:
        """One value, with the fields that follow it."""
        token = self._next()
        match token.kind:
            case "string" | "number":
                return Literal(token.value)
            case "field":
                return Field((token.text[1:], *self._fields()))
            case "variable":
                if token.text not in self._scope:
                    raise Fault(token.line, f"undefined variable {token.text!r}")
                return Variable(token.text, self._fields())
            case "word" if token.text in CONSTANTS:
                return Literal(CONSTANTS[token.text])
            case "word":
                if token.text not in self._functions:
                    raise Fault(token.line, f"function {token.text!r} not defined")
                return Function(token.text)
        if token.text == ".":
            return Dot()
        if token.text == "(":
            pipe = self._pipe(token.line, declares=0)
            self._skip_space()
            if self._next().text != ")":
                raise Fault(token.line, "unclosed parenthesis")
            names = self._fields()
            return Chain(pipe, names) if names else pipe
        raise Fault(token.line, f"unexpected {token.text!r} in an operand" if token.text else "unclosed action")

    def _fields(self) -> tuple[str, ...]:
        names = []
        while self._peek().kind == "field":
            names.append(self._next().text[1:])
        return tuple(names)

    def _close(self, word: Token) -> None:
        self._skip_space()
        token = self._next()
        if token.kind != "close":
            raise Fault(word.line, f"unexpected {token.text!r} in an action" if token.text else "unclosed action")

    def _peek(self) -> Token:
        return self._tokens[min(self._at, len(self._tokens) - 1)]

    def _peek_past_space(self) -> Token:
        at = self._at
        while self._tokens[at].kind == "space":
            at += 1
        return self._tokens[at]

    def _next(self) -> Token:
        token = self._peek()
        self._at += 1
        return token

    def _skip_space(self) -> bool:
        """Whether there was any."""
        start = self._at
        while self._peek().kind == "space":
            self._at += 1
        return self._at > start
