"""From a checked body and a model to an `Ask`: what both HTTP APIs hand to the node. Pure.

What the model can do is checked here, before anything is loaded, with the words that Ollama uses.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from api.errors import BadRequest
from api.native_bodies import ChatBody, EmbedBody, EmbeddingsBody, GenerateBody
from api.openai_bodies import ChatCompletionBody, ChatMessageBody, CompletionBody, EmbeddingBody
from api.options import Options, merge_options
from node.jobs import Chat, EmbedJob, Infill, Job, Message, Prompt, Raw, Think, ToolCall
from node.supervisor import LoadOptions
from registry import Model

MAX_TOP_LOGPROBS = 20
MAX_EMBED_INPUTS = 4096
# Prompts times choices of one request to /v1/completions.
MAX_COMPLETION_JOBS = 64
# What OpenAI's API takes where the request says nothing; the model's own parameters come before these.
OPENAI_DEFAULTS: Mapping[str, Any] = {"temperature": 1.0, "top_p": 1.0}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for generated text, ready to be served."""

    model: Model
    job: Job
    load: LoadOptions
    keep_alive_s: float | None


@dataclass(frozen=True, slots=True)
class EmbedAsk:
    """One request for embeddings, ready to be served."""

    model: Model
    job: EmbedJob
    load: LoadOptions
    keep_alive_s: float | None


def generate_ask(body: GenerateBody, model: Model, capabilities: Sequence[str]) -> Ask:
    """A job for /api/generate with a prompt. Raises BadRequest."""
    if body.raw and (body.template or body.system or body.context):
        raise BadRequest("raw mode does not support template, system, or context")
    think = _check_capabilities(
        capabilities,
        asked=body.model,
        action="generate",
        think=body.think,
        needs_insert=bool(body.suffix) and not body.raw and not body.template,
        has_images=bool(body.images),
    )
    options = merge_options(model.parameters, body.options)
    job = _job(
        _generate_prompt(body, model, think),
        options,
        output_format=body.format,
        logprobs=_logprobs(wanted=body.logprobs, top=body.top_logprobs),
        truncate=body.truncate,
        shift=body.shift,
    )
    return Ask(model, job, options.load_options(), body.keep_alive)


def _generate_prompt(body: GenerateBody, model: Model, think: Think) -> Prompt:
    template = body.template or None
    if body.raw:
        return Raw(prompt=body.prompt)
    if body.suffix:
        return Infill(prefix=body.prompt, suffix=body.suffix, template=template)
    system = body.system or model.system or ""
    messages = [Message(role="system", content=system)] if system else []
    if body.context is None:
        messages += [Message(role=turn.role, content=turn.content) for turn in model.messages]
    messages.append(Message(role="user", content=body.prompt, images=tuple(body.images)))
    return Chat(messages=tuple(messages), think=think, template=template, context=tuple(body.context or ()))


def chat_ask(body: ChatBody, model: Model, capabilities: Sequence[str]) -> Ask:
    """A job for /api/chat with messages. Raises BadRequest."""
    think = _check_capabilities(
        capabilities,
        asked=body.model,
        full_name=model.name.full,
        action="chat",
        think=body.think,
        needs_tools=bool(body.tools),
        has_images=any(message.images for message in body.messages),
    )
    options = merge_options(model.parameters, body.options)
    messages = _whole_conversation(model, [message.to_message() for message in body.messages])
    job = _job(
        Chat(messages=messages, tools=tuple(body.tools), think=think),
        options,
        output_format=body.format,
        logprobs=_logprobs(wanted=body.logprobs, top=body.top_logprobs),
        truncate=body.truncate,
        shift=body.shift,
    )
    return Ask(model, job, options.load_options(), body.keep_alive)


def chat_completion_asks(body: ChatCompletionBody, model: Model, capabilities: Sequence[str]) -> list[Ask]:
    """One job for each of the `n` choices. Raises BadRequest."""
    if not body.messages:
        raise BadRequest("[] is too short - 'messages'", "messages")
    tools = body.offered_tools
    think = _check_capabilities(
        capabilities,
        asked=body.model,
        full_name=model.name.full,
        action="chat",
        think=body.think,
        needs_tools=bool(tools),
        has_images=any(message.images for message in body.messages),
    )
    options = merge_options(OPENAI_DEFAULTS, model.parameters, body.merged_options())
    job = _job(
        Chat(messages=_whole_conversation(model, _openai_messages(body.messages)), tools=tools, think=think),
        options,
        logit_bias=body.logit_bias,
        output_format=None if body.response_format is None else body.response_format.output_format,
        logprobs=_logprobs(wanted=body.logprobs, top=body.top_logprobs),
    )
    return [
        Ask(model, choice, options.load_options(), body.keep_alive) for choice in _choices(job, body.n, options.seed)
    ]


def completion_asks(body: CompletionBody, model: Model, capabilities: Sequence[str]) -> list[Ask]:
    """One job for each prompt and choice, in OpenAI's order: all choices of the first prompt first.

    As Ollama does, text goes through the model's template unless the request says `raw`; token ids never do.
    Raises BadRequest.
    """
    if body.echo:
        raise BadRequest("echo is not supported", "echo")
    if body.best_of != 1 and body.best_of != body.n:
        raise BadRequest("best_of is not supported", "best_of")
    prompts = body.prompts
    if not 1 <= len(prompts) * body.n <= MAX_COMPLETION_JOBS:
        raise BadRequest(f"between 1 and {MAX_COMPLETION_JOBS} answers at a time", "prompt")
    think = _check_capabilities(
        capabilities, asked=body.model, action="generate", think=None, needs_insert=bool(body.suffix) and not body.raw
    )
    options = merge_options(OPENAI_DEFAULTS, model.parameters, body.merged_options())
    asks = []
    for text in prompts:
        prompt: Prompt = Raw(prompt=text)
        if isinstance(text, str) and not body.raw:
            native = GenerateBody(model=body.model, prompt=text, suffix=body.suffix)
            prompt = _generate_prompt(native, model, think)
        elif body.suffix:
            raise BadRequest("suffix needs a text prompt that is not raw", "suffix")
        job = _job(prompt, options, logit_bias=body.logit_bias, logprobs=body.logprobs)
        asks += [
            Ask(model, choice, options.load_options(), body.keep_alive)
            for choice in _choices(job, body.n, options.seed)
        ]
    return asks


def embed_ask(body: EmbedBody | EmbeddingsBody | EmbeddingBody, model: Model) -> EmbedAsk:
    """A job for the texts or token ids of any of the three embedding endpoints. Raises BadRequest."""
    options = merge_options(model.parameters, body.options)
    match body:
        case EmbeddingsBody():
            # The old endpoint gives the vector as the model made it.
            job = EmbedJob(id=_new_id(), inputs=(body.prompt,), normalize=False)
        case EmbedBody():
            texts = [body.input] if isinstance(body.input, str) else body.input
            job = EmbedJob(
                id=_new_id(), inputs=tuple(texts), truncate=body.truncate, dimensions=body.dimensions or None
            )
        case EmbeddingBody():
            job = EmbedJob(id=_new_id(), inputs=body.inputs, dimensions=body.dimensions or None)
    if len(job.inputs) > MAX_EMBED_INPUTS:
        raise BadRequest(f"at most {MAX_EMBED_INPUTS} inputs at a time", "input")
    return EmbedAsk(model, job, options.load_options(), body.keep_alive)


def _check_capabilities(
    capabilities: Sequence[str],
    *,
    asked: str,
    action: str,
    think: Think,
    full_name: str = "",
    needs_tools: bool = False,
    needs_insert: bool = False,
    has_images: bool = False,
) -> Think:
    """Refuse what the model can't do; the answer is how it is to think; the runner decides about None."""
    if "completion" not in capabilities:
        raise BadRequest(f'"{asked}" does not support {action}', "model")
    if has_images:
        raise BadRequest(f'"{asked}" does not support image input', "images")
    if needs_tools and "tools" not in capabilities:
        raise BadRequest(f"{full_name} does not support tools", "tools")
    if needs_insert and "insert" not in capabilities:
        raise BadRequest(f'"{asked}" does not support insert', "suffix")
    if "thinking" in capabilities:
        return think
    if think:
        raise BadRequest(f'"{asked}" does not support thinking', "think")
    return None


def _whole_conversation(model: Model, asked: list[Message]) -> tuple[Message, ...]:
    """The model's own system prompt and first turns, then the request's."""
    messages = [Message(role=turn.role, content=turn.content) for turn in model.messages] + asked
    if model.system and asked[0].role != "system":
        messages.insert(0, Message(role="system", content=model.system))
    return tuple(messages)


def _openai_messages(bodies: Sequence[ChatMessageBody]) -> list[Message]:
    names: dict[str, str] = {}
    messages = []
    for body in bodies:
        names |= {call.id: call.function.name for call in body.tool_calls}
        role = body.role.lower()
        messages.append(
            Message(
                role="system" if role == "developer" else role,
                content=body.text,
                thinking=body.reasoning or body.reasoning_content,
                tool_calls=tuple(
                    ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
                    for call in body.tool_calls
                ),
                tool_name=(body.name or names.get(body.tool_call_id, "")) if role == "tool" else "",
                tool_call_id=body.tool_call_id,
                images=body.images,
            )
        )
    return messages


def _job(
    prompt: Prompt,
    options: Options,
    *,
    output_format: dict[str, Any] | str | None = None,
    logprobs: int | None = None,
    logit_bias: Mapping[int, float] | None = None,
    truncate: bool = True,
    shift: bool = True,
) -> Job:
    return Job(
        id=_new_id(),
        prompt=prompt,
        sampling=options.sampling(logit_bias),
        max_tokens=options.max_tokens,
        stop=options.stop,
        output_format=output_format,
        logprobs=logprobs,
        num_keep=options.num_keep,
        truncate=truncate,
        shift=shift,
    )


def _choices(job: Job, count: int, seed: int) -> list[Job]:
    """`count` jobs that differ in id and, where one is given, in seed (the same seed would give the same text)."""
    jobs = [job]
    for index in range(1, count):
        sampling = replace(job.sampling, seed=None if seed < 0 else (seed + index) & 0xFFFFFFFF)
        jobs.append(replace(job, id=_new_id(), sampling=sampling))
    return jobs


def _logprobs(*, wanted: bool, top: int) -> int | None:
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", "top_logprobs")
    return top if wanted else None


def _new_id() -> str:
    return secrets.token_hex(8)
