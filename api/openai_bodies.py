"""The request bodies of OpenAI's `/v1`.

Source of names and types: OpenAI's API reference; of what is tolerated: Ollama's openai/openai.go. `options`,
`keep_alive` and (for completions) `raw` are Ollama's own fields, taken here as well.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from api.body import Body, Image, JsonObject
from api.native_bodies import KeepAlive, TokenId, Tool, ToolCallBody
from node.jobs import Think

MAX_CHOICES = 16
MAX_STOPS = 64
EFFORTS: dict[str, Think] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}


def _effort(value: Any) -> Any:
    if isinstance(value, str) and value in EFFORTS:
        return value
    raise ValueError(f"invalid reasoning value: {str(value)[:64]!r} (must be one of {', '.join(EFFORTS)})")


def _image_url(value: Any) -> Any:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise ValueError("Input should be a URL or an object with one")
    if url.startswith(("http://", "https://")):
        raise ValueError("image URLs are not supported, please use base64 encoded data instead")
    if not url.startswith(("data:image/", "data:;base64,")):
        raise ValueError("invalid image input")
    return url


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _token_ids(value: Any) -> Any:
    """JSON has only text as keys."""
    if not isinstance(value, dict):
        return value
    try:
        return {int(token): bias for token, bias in value.items()}
    except ValueError:
        raise ValueError("keys must be token ids") from None


def _clamp(biases: dict[int, float]) -> dict[int, float]:
    return {token: max(-100.0, min(bias, 100.0)) for token, bias in biases.items()}


TokenCount = Annotated[int, Field(gt=-(2**31), lt=2**31)]


class TextPart(Body):
    """Text, or what stands for it in an answer."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: str = ""
    refusal: str = ""


class ImagePart(Body):
    """A picture, as a data: URL."""

    type: Literal["image_url"]
    image_url: Annotated[Image, BeforeValidator(_image_url)]


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessageBody(Body):
    """One turn."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[Part] | None = None
    reasoning: str = ""
    reasoning_content: str = ""
    name: str = ""
    tool_calls: list[ToolCallBody] = []
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        """All of its text."""
        if isinstance(self.content, list):
            texts = [part.text or part.refusal for part in self.content if isinstance(part, TextPart)]
            return "\n".join(texts)
        return self.content or ""

    @property
    def images(self) -> tuple[bytes, ...]:
        """All of its pictures."""
        parts = self.content if isinstance(self.content, list) else []
        return tuple(part.image_url for part in parts if isinstance(part, ImagePart))


class SchemaBody(Body):
    """A JSON schema with a name."""

    name: str = ""
    json_schema: JsonObject = Field(default={}, validation_alias="schema")


class ResponseFormatBody(Body):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaBody | None = None

    @property
    def output_format(self) -> dict[str, Any] | str | None:
        """As the job carries it."""
        if self.type == "json_schema" and self.json_schema is not None:
            return self.json_schema.json_schema or "json"
        return None if self.type == "text" else "json"


class StreamOptionsBody(Body):
    """What a stream carries besides the text."""

    include_usage: bool = False


class ReasoningBody(Body):
    """How much to think."""

    effort: Annotated[str, BeforeValidator(_effort)] | None = None


class NamedFunction(Body):
    """A function by name."""

    name: str


class ToolChoiceBody(Body):
    """The one tool that is to be used."""

    type: str = "function"
    function: NamedFunction


class SamplingBody(Body):
    """What chat and text completions have in common; None: not said."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptionsBody = StreamOptionsBody()
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    max_tokens: TokenCount | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: Annotated[list[str], BeforeValidator(_stops), Field(max_length=MAX_STOPS)] | None = None
    logit_bias: Annotated[dict[TokenId, float], BeforeValidator(_token_ids), AfterValidator(_clamp)] = {}
    options: JsonObject = {}
    keep_alive: KeepAlive | None = None
    debug_render_only: bool = Field(default=False, validation_alias="_debug_render_only")

    @property
    def token_budget(self) -> int | None:
        """The most tokens to generate, where the request says so."""
        return self.max_tokens

    def merged_options(self) -> dict[str, Any]:
        """The request's sampling fields under Ollama's names, over `options`."""
        fields = {
            "num_predict": self.token_budget,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "stop": self.stop,
        }
        return self.options | {name: value for name, value in fields.items() if value is not None}


class ChatCompletionBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessageBody] = []
    max_completion_tokens: TokenCount | None = None
    tools: list[Tool] = []
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceBody = "auto"
    response_format: ResponseFormatBody | None = None
    reasoning: ReasoningBody = ReasoningBody()
    reasoning_effort: Annotated[str, BeforeValidator(_effort)] | None = None
    logprobs: bool = False
    top_logprobs: int = 0

    @property
    def token_budget(self) -> int | None:
        """The most tokens to generate; the newer name wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def think(self) -> Think:
        """The effort in Ollama's levels."""
        effort = self.reasoning.effort or self.reasoning_effort
        return None if effort is None else EFFORTS[effort]

    @property
    def offered_tools(self) -> tuple[dict[str, Any], ...]:
        """The tools that the choice leaves."""
        if self.tool_choice == "none":
            return ()
        if isinstance(self.tool_choice, ToolChoiceBody):
            wanted = self.tool_choice.function.name
            return tuple(tool for tool in self.tools if tool["function"]["name"] == wanted)
        return tuple(self.tools)


class CompletionBody(SamplingBody):
    """POST /v1/completions; a prompt is text or token ids, or a list of those."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] = ""
    suffix: str = ""
    raw: bool = False
    echo: bool = False
    best_of: int = 1
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Each prompt by itself."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [tuple(token for token in self.prompt if isinstance(token, int))]
        return [item if isinstance(item, str) else tuple(item) for item in self.prompt if not isinstance(item, int)]


class EmbeddingBody(Body):
    """POST /v1/embeddings; an input is text or token ids, or a list of those."""

    model: str = ""
    input: str | list[str] | list[TokenId] | list[list[TokenId]] = []
    dimensions: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    encoding_format: Literal["float", "base64"] = "float"
    options: JsonObject = {}
    keep_alive: KeepAlive | None = None

    @property
    def inputs(self) -> tuple[str | tuple[int, ...], ...]:
        """Each input by itself."""
        if isinstance(self.input, str):
            return (self.input,)
        if self.input and isinstance(self.input[0], int):
            return (tuple(token for token in self.input if isinstance(token, int)),)
        return tuple(item if isinstance(item, str) else tuple(item) for item in self.input if not isinstance(item, int))
