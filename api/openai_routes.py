"""OpenAI's endpoints: chat completions, completions, embeddings, models."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import serving
from api.asks import Ask, chat_completion_asks, completion_asks, embed_ask
from api.body import json_body
from api.daemon import KnownModel
from api.errors import BadRequest
from api.model_views import openai_entry, openai_model
from api.openai_answers import (
    SSE,
    ChatChoice,
    Envelope,
    TextChoice,
    error_event,
    stream_choices,
    whole_choices,
)
from api.openai_bodies import ChatCompletionBody, CompletionBody, EmbeddingBody, SamplingBody
from api.respond import daemon_of, json_response
from api.stream import ChunkStream, collect_all, merge, while_connected
from api.vectors import base64_text, floats

router = APIRouter(prefix="/v1")


@router.post("/chat/completions")
async def chat_completions(
    request: Request, body: Annotated[ChatCompletionBody, json_body(ChatCompletionBody)]
) -> Response:
    """Continue a conversation."""
    known = await _find(request, body.model)
    asks = chat_completion_asks(body, known.model, known.capabilities)
    envelope = Envelope("chat.completion", body.model, _fingerprint(known), body.n)
    choices = [ChatChoice(envelope, index) for index in range(len(asks))]
    return await _serve(request, body, asks, envelope, choices)


@router.post("/completions")
async def completions(request: Request, body: Annotated[CompletionBody, json_body(CompletionBody)]) -> Response:
    """Continue a text."""
    known = await _find(request, body.model)
    asks = completion_asks(body, known.model, known.capabilities)
    envelope = Envelope("text_completion", body.model, _fingerprint(known), body.n)
    choices = [TextChoice(envelope, index) for index in range(len(asks))]
    return await _serve(request, body, asks, envelope, choices)


async def _serve(
    request: Request,
    body: SamplingBody,
    asks: Sequence[Ask],
    envelope: Envelope,
    choices: Sequence[ChatChoice | TextChoice],
) -> Response:
    daemon = daemon_of(request)
    if body.debug_render_only:
        first = asks[0]
        rendering = daemon.node.render(first.model, first.job, first.load, first.keep_alive_s)
        return json_response(envelope.rendered((await while_connected(request.receive, rendering)).text))
    runs = serving.run_all(daemon, asks)
    if body.stream:
        chunks = stream_choices(envelope, choices, merge(runs), include_usage=body.stream_options.include_usage)
        return ChunkStream(chunks, media_type=SSE, error_chunk=error_event)
    answers = await while_connected(request.receive, collect_all(runs))
    return json_response(whole_choices(envelope, choices, answers))


@router.post("/embeddings")
async def embeddings(request: Request, body: Annotated[EmbeddingBody, json_body(EmbeddingBody)]) -> Response:
    """Embed one input or many."""
    if not body.inputs:
        raise BadRequest("invalid input", "input")
    known = await _find(request, body.model)
    ask = embed_ask(body, known.model)
    embedded = await while_connected(request.receive, serving.embed(daemon_of(request), ask))
    shape = base64_text if body.encoding_format == "base64" else floats
    return json_response(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": shape(vector), "index": index}
                for index, vector in enumerate(embedded.vectors)
            ],
            "model": body.model,
            "usage": {"prompt_tokens": embedded.prompt_tokens, "total_tokens": embedded.prompt_tokens},
        }
    )


@router.get("/models")
async def models(request: Request) -> Response:
    """Every stored model."""
    daemon = daemon_of(request)
    stored = await asyncio.to_thread(daemon.store.list)
    shown = [openai_model(model) for model in stored]
    if (elsewhere := daemon.shelf.elsewhere) is not None:
        shown += [openai_entry(entry) for entry in await elsewhere.entries([model.name for model in stored])]
        shown = [entry for entry in shown if elsewhere.may_use(entry["id"])]
    return json_response({"object": "list", "data": shown})


@router.get("/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """One stored model; its name may hold slashes."""
    known = await _find(request, name)
    return json_response(openai_model(known.model, name))


async def _find(request: Request, asked: str) -> KnownModel:
    if not asked:
        raise BadRequest("model is required", "model")
    return await daemon_of(request).shelf.find(asked)


def _fingerprint(known: KnownModel) -> str:
    """Changes whenever the model does."""
    return f"fp_{known.model.digest.hex[:10]}"
