"""Ollama's endpoints that run a model: generate, chat, embed, embeddings, ps."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import serving
from api.asks import Ask, chat_ask, embed_ask, generate_ask
from api.body import json_body
from api.clock import FOREVER
from api.daemon import KnownModel
from api.errors import BadRequest, UnknownModel
from api.model_views import loaded_entries
from api.native_answers import NDJSON, NativeAnswer, error_line
from api.native_bodies import ChatBody, EmbedBody, EmbeddingsBody, GenerateBody
from api.options import merge_options
from api.respond import daemon_of, json_response
from api.stream import ChunkStream, collect, while_connected
from api.vectors import floats

router = APIRouter()
PULL_ADVICE = ", try pulling it first"


@router.post("/api/generate")
async def generate(request: Request, body: Annotated[GenerateBody, json_body(GenerateBody)]) -> Response:
    """Continue a prompt; without one, load or unload the model."""
    started_ns = time.perf_counter_ns()
    daemon = daemon_of(request)
    if not body.model:
        raise UnknownModel("")
    known = await daemon.shelf.find(body.model)
    answer = NativeAnswer("generate", body.model, started_ns=started_ns, raw=body.raw)
    if not body.prompt and not body.suffix:
        return await _load_or_unload(request, known, body, answer)
    ask = generate_ask(body, known.model, known.capabilities)
    return await _serve(request, ask, answer, stream=body.stream, render_only=body.debug_render_only)


@router.post("/api/chat")
async def chat(request: Request, body: Annotated[ChatBody, json_body(ChatBody)]) -> Response:
    """Continue a conversation; without messages, load or unload the model."""
    started_ns = time.perf_counter_ns()
    daemon = daemon_of(request)
    if not body.model:
        raise BadRequest("model is required", "model")
    known = await daemon.shelf.find(body.model)
    answer = NativeAnswer("chat", body.model, started_ns=started_ns)
    if not body.messages:
        return await _load_or_unload(request, known, body, answer)
    ask = chat_ask(body, known.model, known.capabilities)
    return await _serve(request, ask, answer, stream=body.stream, render_only=body.debug_render_only)


async def _load_or_unload(
    request: Request, known: KnownModel, body: GenerateBody | ChatBody, answer: NativeAnswer
) -> Response:
    node = daemon_of(request).node
    options = merge_options(known.model.parameters, body.options)
    if body.keep_alive == 0:
        await node.unload(known.model.name)
        return json_response(answer.without_text("unload"))
    await while_connected(request.receive, node.load(known.model, options.load_options(), body.keep_alive))
    return json_response(answer.without_text("load"))


async def _serve(request: Request, ask: Ask, answer: NativeAnswer, *, stream: bool, render_only: bool) -> Response:
    if render_only:
        rendering = daemon_of(request).node.render(ask.model, ask.job, ask.load, ask.keep_alive_s)
        return json_response(answer.rendered((await while_connected(request.receive, rendering)).text))
    events = serving.run(daemon_of(request), ask)
    if stream:
        return ChunkStream(answer.stream(events), media_type=NDJSON, error_chunk=error_line)
    return json_response(answer.whole(await while_connected(request.receive, collect(events))))


@router.post("/api/embed")
async def embed(request: Request, body: Annotated[EmbedBody, json_body(EmbedBody)]) -> Response:
    """Embed one text or many."""
    started_ns = time.perf_counter_ns()
    daemon = daemon_of(request)
    if not body.model:
        raise UnknownModel("")
    known = await daemon.shelf.find(body.model, advice=PULL_ADVICE)
    ask = embed_ask(body, known.model)
    if not body.input:
        await while_connected(request.receive, daemon.node.load(ask.model, ask.load, ask.keep_alive_s, embedding=True))
        return json_response({"model": body.model, "embeddings": []})
    embedded = await while_connected(request.receive, serving.embed(daemon, ask))
    total_ns = time.perf_counter_ns() - started_ns
    return json_response(
        {
            "model": body.model,
            "embeddings": [floats(vector) for vector in embedded.vectors],
            "total_duration": total_ns,
            "load_duration": max(0, total_ns - embedded.compute_ns),
            "prompt_eval_count": embedded.prompt_tokens,
        }
    )


@router.post("/api/embeddings")
async def embeddings(request: Request, body: Annotated[EmbeddingsBody, json_body(EmbeddingsBody)]) -> Response:
    """Embed one text; the older form of embed."""
    daemon = daemon_of(request)
    if not body.model:
        raise BadRequest("model is required", "model")
    known = await daemon.shelf.find(body.model, advice=PULL_ADVICE)
    ask = embed_ask(body, known.model)
    if not body.prompt:
        await while_connected(request.receive, daemon.node.load(ask.model, ask.load, ask.keep_alive_s, embedding=True))
        return json_response({"embedding": []})
    embedded = await while_connected(request.receive, serving.embed(daemon, ask))
    return json_response({"embedding": floats(embedded.vectors[0])})


@router.get("/api/ps")
async def ps(request: Request) -> Response:
    """The models in memory, the one that stays longest first."""
    daemon = daemon_of(request)
    loaded = sorted(daemon.node.loaded(), key=lambda item: item.expires_at or FOREVER, reverse=True)
    entries = await asyncio.to_thread(loaded_entries, daemon.store, loaded)
    if (elsewhere := daemon.shelf.elsewhere) is not None:
        entries = await elsewhere.loaded(entries)
    return json_response({"models": entries})
