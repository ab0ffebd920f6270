"""What a runner is asked (`Job`, `EmbedJob`) and what it answers (`Event`): plain values, msgpack on the wire.

A job is validated and self-contained: it holds messages, not prompt text, so any machine that has the model can
serve it, or continue it after the tokens in `resume`. Rendering the prompt and parsing the output belong to the
runner; which HTTP API asked is known to nobody below `api`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct

Role: TypeAlias = str  # "system" | "user" | "assistant" | "tool", or whatever else a template knows
Think: TypeAlias = bool | Literal["low", "medium", "high", "max"] | None  # None: as the model does by default
FinishReason: TypeAlias = Literal["stop", "length"]
FailureKind: TypeAlias = Literal["bad_request", "context_exceeded", "unsupported", "internal"]


class ToolCall(Struct, frozen=True, kw_only=True):
    """A function the model asks to have called; `arguments` is the parsed JSON object."""

    name: str
    arguments: dict[str, Any]
    id: str = ""


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a conversation, in Ollama's fields; templates see them under the same names."""

    role: Role
    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""
    images: tuple[bytes, ...] = ()


class Chat(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="chat"):
    """A conversation to be rendered with the model's template (or `template`, where the request brings one).

    A last message of role "assistant" is continued, not answered. `context` is token ids that stand before the
    rendered text (the `context` field of /api/generate). `tools` are OpenAI-style function definitions.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    think: Think = None
    template: str | None = None
    context: tuple[int, ...] = ()


class Raw(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="raw"):
    """Text that goes to the model as it is, or token ids where the client sent those."""

    prompt: str | tuple[int, ...]


class Infill(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="infill"):
    """Text between `prefix` and `suffix`: the template's Suffix branch, or the vocabulary's FIM tokens."""

    prefix: str
    suffix: str
    template: str | None = None


Prompt: TypeAlias = Chat | Raw | Infill


class Sampling(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen, with Ollama's names and defaults. `seed` None: a fresh random one."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    mirostat: Literal[0, 1, 2] = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    logit_bias: dict[int, float] = {}


class Job(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One inference request.

    Attributes:
        id: chosen by the asker, unique among its open jobs.
        max_tokens: budget of generated tokens, those of `resume` included; None: until the context is full.
        output_format: None: free text; "json": any JSON object; a dict: a JSON schema; a str starting with
            "gbnf:" : that grammar. The output then always matches (unless cut by the budget).
        logprobs: None: not wanted; n: the chosen token's and the n likeliest ones' at each position.
        truncate: drop the oldest messages (or the oldest tokens of a raw prompt) that do not fit the context;
            False: fail with "context_exceeded".
        shift: when the context is full, discard the older half after `num_keep` tokens and go on;
            False: stop with reason "length".
        resume: token ids already delivered by another machine: forced, not sampled, not delivered again.
        trace: W3C traceparent of whoever asks, for logs and spans; "": none.
    """

    id: str
    prompt: Prompt
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    output_format: dict[str, Any] | str | None = None
    logprobs: int | None = None
    num_keep: int = 4
    truncate: bool = True
    shift: bool = True
    resume: tuple[int, ...] = ()
    trace: str = ""


class EmbedJob(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Texts (or token ids) to embed, in one batch; `dimensions` cuts and normalises anew. `trace` as a `Job`'s."""

    id: str
    inputs: tuple[str | tuple[int, ...], ...]
    truncate: bool = True
    dimensions: int | None = None
    normalize: bool = True
    trace: str = ""


class Alternative(Struct, frozen=True, array_like=True):
    """A token and its natural-log probability; `raw` because one token can be part of a character."""

    token: int
    raw: bytes
    logprob: float


class TokenLogprob(Struct, frozen=True, array_like=True):
    """The chosen token and the likeliest ones at its position, best first."""

    chosen: Alternative
    top: tuple[Alternative, ...] = ()


class Delta(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="delta"):
    """More output. `tokens` are the ids consumed since the last delta, whether or not they show as text yet."""

    job: str
    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts in tokens, times in nanoseconds. `cached_tokens` of `prompt_tokens` came from the prefix cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    queue_ns: int = 0
    prompt_ns: int = 0
    output_ns: int = 0


class Done(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="done"):
    """The last event of a job that succeeded. `context`: all token ids, prompt and output."""

    job: str
    reason: FinishReason
    usage: Usage
    context: tuple[int, ...] = ()


class Failed(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="failed"):
    """The last event of a job that did not succeed; `message` is meant for the client."""

    job: str
    kind: FailureKind
    message: str


class Embedded(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="embedded"):
    """The only event of an embed job: one little-endian float32 array per input, the tokens read, and the time it took.

    `compute_ns` is what the model was busy with them, without loading it or waiting for it.
    """

    job: str
    vectors: tuple[bytes, ...]
    prompt_tokens: int
    compute_ns: int = 0


class Rendered(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="rendered"):
    """The only event of a render request: the prompt text as it would be tokenised, and its length in tokens."""

    job: str
    text: str
    prompt_tokens: int


Event: TypeAlias = Delta | Done | Failed | Embedded | Rendered
