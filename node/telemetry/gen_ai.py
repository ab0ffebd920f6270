"""A job in the words of OpenTelemetry's GenAI conventions: names and numbers of it, never its text.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ (v1.37 and later).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from node.jobs import Chat, EmbedJob, Usage

if TYPE_CHECKING:
    from node.jobs import Job
    from node.telemetry.tracing import Attributes

PROVIDER = "ayni"


def operation_of(job: Job | EmbedJob) -> Literal["chat", "text_completion", "embeddings"]:
    """What is asked for, in the convention's words."""
    if isinstance(job, EmbedJob):
        return "embeddings"
    return "chat" if isinstance(job.prompt, Chat) else "text_completion"


def request_attributes(model: str, job: Job | EmbedJob) -> Attributes:
    """What is known of a job before it runs."""
    found: dict[str, str | int | float | bool | tuple[str, ...]] = {
        "gen_ai.operation.name": operation_of(job),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
    }
    if isinstance(job, EmbedJob):
        if job.dimensions is not None:
            found["gen_ai.embeddings.dimension.count"] = job.dimensions
        return found
    sampling = job.sampling
    found |= {
        "gen_ai.output.type": "text" if job.output_format is None else "json",
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_k": float(sampling.top_k),
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
    }
    if job.max_tokens is not None:
        found["gen_ai.request.max_tokens"] = job.max_tokens
    if sampling.seed is not None:
        found["gen_ai.request.seed"] = sampling.seed
    return found


def usage_attributes(usage: Usage) -> Attributes:
    """What a job has used."""
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
    }
