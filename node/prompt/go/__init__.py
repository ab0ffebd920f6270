"""An interpreter for Go's text/template, as far as chat templates reach: no methods, no files, bounded work."""

from node.prompt.go.evaluator import execute
from node.prompt.go.functions import NAMES
from node.prompt.go.nodes import Template
from node.prompt.go.parser import parse

__all__ = ["NAMES", "Template", "execute", "parse"]
