"""The request bodies of Ollama's `/api`.

Source of names, types and defaults: Ollama's API documentation and api/types.go.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import from_json

from api.body import Body, Image, JsonObject, JsonValue
from node.jobs import Message, Think, ToolCall
from node.setting_values import parse_duration

THINK_LEVELS = ("high", "medium", "low", "max")
MAX_TOKEN_ID = 2**31 - 1


def _keep_alive(value: Any) -> float:
    try:
        return parse_duration(value)
    except (ValueError, OverflowError):
        raise ValueError(f'invalid duration {str(value)[:64]!r}: expected a number of seconds, or "5m"') from None


def _think(value: Any) -> Any:
    if isinstance(value, bool) or value in THINK_LEVELS:
        return value
    if isinstance(value, str):
        raise ValueError(
            f'invalid think value: "{value[:64]}" (must be "high", "medium", "low", "max", true, or false)'
        )
    raise ValueError('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


def _format(value: Any) -> Any:
    if value == "":
        return None
    if value == "json" or isinstance(value, dict):
        return value
    raise ValueError(f'invalid format: {str(value)[:64]!r}; expected "json" or a valid JSON Schema object')


def _arguments(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return from_json(value or "{}", allow_inf_nan=False)


KeepAlive = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(_keep_alive)]
"""Seconds; math.inf for any negative duration."""
ThinkValue = Annotated[Think, BeforeValidator(_think)]
Format = Annotated[JsonValue, AfterValidator(_format)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]


class FunctionBody(Body):
    """The function that a tool call names; arguments are an object, or JSON text of one."""

    name: str = ""
    arguments: Annotated[JsonObject, BeforeValidator(_arguments)] = {}


class ToolCallBody(Body):
    """A call that the model made in an earlier turn."""

    id: str = ""
    function: FunctionBody

    def to_call(self) -> ToolCall:
        """As the job carries it."""
        return ToolCall(id=self.id, name=self.function.name, arguments=self.function.arguments)


class MessageBody(Body):
    """One turn of a conversation."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str = ""
    thinking: str = ""
    images: list[Image] = []
    tool_calls: list[ToolCallBody] = []
    tool_name: str = ""
    tool_call_id: str = ""

    def to_message(self) -> Message:
        """As the job carries it; roles are lower-case."""
        return Message(
            role=self.role.lower(),
            content=self.content,
            thinking=self.thinking,
            images=tuple(self.images),
            tool_calls=tuple(call.to_call() for call in self.tool_calls),
            tool_name=self.tool_name,
            tool_call_id=self.tool_call_id,
        )


class ToolFunctionBody(Body):
    """What is checked of a tool; the rest of it goes to the template as it came."""

    name: Annotated[str, Field(min_length=1)]


class ToolBody(Body):
    """A tool, for checking only."""

    type: str = "function"
    function: ToolFunctionBody


def _tool(value: dict[str, Any]) -> dict[str, Any]:
    ToolBody.model_validate(value)
    return value


Tool = Annotated[JsonObject, AfterValidator(_tool)]


class GenerationBody(Body):
    """What generate and chat have in common."""

    model: str = ""
    stream: bool = True
    format: Format = None
    keep_alive: KeepAlive | None = None
    options: JsonObject = {}
    think: ThinkValue = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = Field(default=False, validation_alias="_debug_render_only")


class GenerateBody(GenerationBody):
    """POST /api/generate."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[TokenId] | None = None
    raw: bool = False
    images: list[Image] = []


class ChatBody(GenerationBody):
    """POST /api/chat."""

    messages: list[MessageBody] = []
    tools: list[Tool] = []


class EmbedBody(Body):
    """POST /api/embed."""

    model: str = ""
    input: str | list[str] = []
    keep_alive: KeepAlive | None = None
    truncate: bool = True
    dimensions: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    options: JsonObject = {}


class EmbeddingsBody(Body):
    """POST /api/embeddings, the older form of embed."""

    model: str = ""
    prompt: str = ""
    keep_alive: KeepAlive | None = None
    options: JsonObject = {}


class NamedBody(Body):
    """A request about one model; `name` is the older spelling of `model`."""

    model: str = ""
    name: str = ""

    @property
    def asked(self) -> str:
        """The model as the client wrote it."""
        return self.model or self.name


class ShowBody(NamedBody):
    """POST /api/show."""

    verbose: bool = False
    system: str = ""


class CopyBody(Body):
    """POST /api/copy."""

    source: str = ""
    destination: str = ""


class CreateMessage(Body):
    """A MESSAGE of a model to be created."""

    role: Literal["system", "user", "assistant"]
    content: str = ""


class CreateBody(NamedBody):
    """POST /api/create."""

    from_: str = Field(default="", validation_alias="from")
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    template: str | None = None
    system: str | None = None
    license: str | list[str] = []
    parameters: JsonObject = {}
    messages: list[CreateMessage] = []
    requires: str = ""
    renderer: str = ""
    parser: str = ""
    quantize: str = ""
    quantization: str = ""
    remote_host: str = ""
    draft_files: dict[str, str] = {}
    stream: bool = True
