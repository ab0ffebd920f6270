"""A chat becomes prompt text, and a model's text becomes thinking, answer and tool calls; both pure."""

from node.prompt.errors import TemplateError
from node.prompt.fit import fit_messages
from node.prompt.output import OutputParser, Parsed
from node.prompt.template import PromptTemplate, check_syntax

__all__ = ["OutputParser", "Parsed", "PromptTemplate", "TemplateError", "check_syntax", "fit_messages"]
