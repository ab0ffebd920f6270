"""Ollama's endpoints about stored models: tags, show, create, copy, delete, blobs; and who answers here at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from pathlib import PurePosixPath
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response

from api.body import json_body
from api.daemon import Daemon
from api.errors import BadRequest, NotOffered, UnknownModel
from api.model_views import show_object, tag_entries
from api.native_answers import NDJSON, error_line
from api.native_bodies import CopyBody, CreateBody, NamedBody, ShowBody
from api.respond import daemon_of, json_response
from api.stream import ChunkStream
from registry import (
    BlobWriter,
    ChatTurn,
    Digest,
    InvalidModelName,
    Model,
    ModelName,
    ModelNotFound,
    Recipe,
    check_parameters,
    check_version,
)

log = logging.getLogger(__name__)
router = APIRouter()

# The version of Ollama whose API is implemented; clients decide by it what they may use.
OLLAMA_VERSION = "0.32.15"
# Hashing and writing this much takes about a millisecond: worth a trip to a thread.
WRITE_BYTES = 1 << 20


@router.api_route("/", methods=["GET", "HEAD"])
async def running(request: Request) -> Response:
    """A sign of life; clients look for Ollama's three words."""
    return PlainTextResponse(f"Ollama is running (Ayni {daemon_of(request).version})")


@router.api_route("/api/version", methods=["GET", "HEAD"])
async def version(request: Request) -> Response:
    """The API's version, and ours."""
    return json_response({"version": OLLAMA_VERSION, "ayni": daemon_of(request).version})


@router.api_route("/api/tags", methods=["GET", "HEAD"])
async def tags(request: Request) -> Response:
    """Every stored model, the latest change first."""
    daemon = daemon_of(request)
    models = await asyncio.to_thread(daemon.store.list)
    await asyncio.to_thread(daemon.store.warm_facts, models)
    entries = await asyncio.to_thread(tag_entries, daemon.shelf, models)
    if (elsewhere := daemon.shelf.elsewhere) is not None:
        entries += await elsewhere.entries([model.name for model in models])
        entries = [entry for entry in entries if elsewhere.may_use(entry["name"])]
    return json_response({"models": entries})


@router.post("/api/show")
async def show(request: Request, body: Annotated[ShowBody, json_body(ShowBody)]) -> Response:
    """Everything about one model."""
    shelf = daemon_of(request).shelf
    known = await shelf.find(_asked(body))
    if shelf.elsewhere is not None and not await asyncio.to_thread(shelf.is_here, known):
        return json_response(await shelf.elsewhere.show(known.model.name, verbose=body.verbose))
    return json_response(await asyncio.to_thread(show_object, known, verbose=body.verbose, system=body.system))


@router.post("/api/copy")
async def copy(request: Request, body: Annotated[CopyBody, json_body(CopyBody)]) -> Response:
    """Give a model a second name."""
    source, target = _name(body.source, "source"), _name(body.destination, "destination")
    for name in (source, target):
        daemon_of(request).shelf.require(name)
    try:
        await asyncio.to_thread(daemon_of(request).store.copy, source, target)
    except ModelNotFound:
        raise UnknownModel(body.source) from None
    log.info("model copied source=%s target=%s", source, target)
    daemon_of(request).shelf.changed()
    return Response()


@router.delete("/api/delete")
async def delete(request: Request, body: Annotated[NamedBody, json_body(NamedBody)]) -> Response:
    """Remove a model, from memory too."""
    daemon, asked = daemon_of(request), _asked(body)
    try:
        name = ModelName.parse(asked)
        daemon.shelf.require(name)
        await asyncio.to_thread(daemon.store.delete, name)
    except InvalidModelName:
        raise BadRequest(f'name "{asked[:100]}" is invalid', "model") from None
    except ModelNotFound:
        raise UnknownModel(asked) from None
    log.info("model deleted name=%s", name)
    daemon.shelf.changed()
    await daemon.node.unload(name)
    return Response()


@router.post("/api/create")
async def create(request: Request, body: Annotated[CreateBody, json_body(CreateBody)]) -> Response:
    """Make a model from another one or from uploaded GGUF files."""
    name = ModelName.parse(_asked(body))
    recipe = _recipe(body)
    for each in (name, recipe.source):
        if isinstance(each, ModelName):
            daemon_of(request).shelf.require(each)
    if recipe.template:
        await asyncio.to_thread(_check_template, recipe.template)
    statuses = _create(daemon_of(request), name, recipe)
    if body.stream:
        return ChunkStream(statuses, media_type=NDJSON, error_chunk=error_line)
    last = b""
    async for line in statuses:
        last = line
    return json_response(last)


async def _create(daemon: Daemon, name: ModelName, recipe: Recipe) -> AsyncGenerator[bytes, None]:
    """Ollama's status lines. A client that leaves does not stop it: half a model would help nobody."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def report(status: str) -> None:
        loop.call_soon_threadsafe(lines.put_nowait, status)

    work = asyncio.create_task(asyncio.to_thread(daemon.store.create, name, recipe, report), name=f"create {name}")

    def finish(done: asyncio.Task[Model]) -> None:
        # The thread's last report is queued before its result is set, so nothing can come after this None.
        lines.put_nowait(None)
        if not done.cancelled() and (error := done.exception()):
            log.info("model not created name=%s error=%s", name, type(error).__name__)

    work.add_done_callback(finish)
    while (status := await lines.get()) is not None:
        yield _status_line(status)
    try:
        work.result()
    except ModelNotFound as error:
        raise UnknownModel(str(error.name)) from None
    log.info("model created name=%s", name)
    daemon.shelf.changed()
    yield _status_line("success")


def _status_line(status: str) -> bytes:
    return msgspec.json.encode({"status": status}) + b"\n"


def _recipe(body: CreateBody) -> Recipe:
    if body.remote_host:
        raise BadRequest("remote models are not supported", "remote_host")
    if body.draft_files:
        raise BadRequest("draft models are not supported", "draft_files")
    source: ModelName | Mapping[str, Digest]
    if body.from_:
        source = ModelName.parse(body.from_)
    elif body.files:
        source = _files(body.files)
    else:
        raise BadRequest("neither 'from' or 'files' was specified")
    return Recipe(
        source=source,
        template=body.template,
        system=body.system,
        parameters=check_parameters(body.parameters),
        licenses=(body.license,) if isinstance(body.license, str) else tuple(body.license),
        messages=tuple(ChatTurn(message.role, message.content) for message in body.messages),
        adapters=_files(body.adapters),
        requires=check_version(body.requires) if body.requires else None,
        renderer=body.renderer or None,
        parser=body.parser or None,
        quantize=body.quantize or body.quantization,
    )


def _check_template(template: str) -> None:
    """Refuse a template that no request could be rendered with. Raises BadRequest, in Ollama's words."""
    from node.prompt import TemplateError, check_syntax  # here, as a daemon that only serves does without Jinja

    try:
        check_syntax(template)
    except TemplateError as error:
        raise BadRequest(f"template error: {error}", "template") from None


def _files(named: Mapping[str, str]) -> dict[str, Digest]:
    for file in named:
        path = PurePosixPath(file)
        if not file or path.is_absolute() or ".." in path.parts:
            raise BadRequest("file path must be relative", "files")
    return {file: Digest.parse(digest) for file, digest in named.items()}


@router.head("/api/blobs/{digest}")
async def has_blob(request: Request, digest: str) -> Response:
    """Whether a blob is stored; if so, it stays so for the model that is about to use it."""
    present = await asyncio.to_thread(daemon_of(request).store.blobs.claim, Digest.parse(digest))
    return Response(status_code=200 if present else 404)


@router.post("/api/blobs/{digest}")
async def put_blob(request: Request, digest: str) -> Response:
    """Store the body under its digest, which is verified. The disk is the only bound on its size."""
    blobs, expected = daemon_of(request).store.blobs, Digest.parse(digest)
    if await asyncio.to_thread(blobs.claim, expected):
        return Response()
    length = request.headers.get("content-length", "")
    size_bytes = int(length) if length.isdecimal() and len(length) < 19 else None
    writer = await asyncio.to_thread(blobs.write, expected, size_bytes=size_bytes)
    try:
        await _write_body(request, writer)
        await asyncio.to_thread(writer.commit)
    finally:
        await asyncio.to_thread(writer.discard)
    log.info("blob stored digest=%s size_bytes=%d", expected, writer.written_bytes)
    return Response(status_code=201)


async def _write_body(request: Request, writer: BlobWriter) -> None:
    """Raises BadRequest where the client leaves before its body is complete."""
    pending = bytearray()
    try:
        async for chunk in request.stream():
            pending += chunk
            if len(pending) >= WRITE_BYTES:
                await asyncio.to_thread(writer.write, pending)
                pending = bytearray()
    except ClientDisconnect:
        raise BadRequest("the request body ended early") from None
    await asyncio.to_thread(writer.write, pending)


@router.post("/api/pull")
async def pull(body: Annotated[NamedBody, json_body(NamedBody)]) -> Response:
    """Not in this version."""
    raise NotOffered(
        f"pulling '{_asked(body)[:100]}' is not possible: this version does not download models; "
        "create one from a GGUF file (ayni create), or use an Ollama models folder (setting models_dir)"
    )


@router.post("/api/push")
async def push(body: Annotated[NamedBody, json_body(NamedBody)]) -> Response:
    """Not in this version."""
    raise NotOffered(f"pushing '{_asked(body)[:100]}' is not possible: this version does not upload models")


def _asked(body: NamedBody) -> str:
    if not body.asked:
        raise BadRequest("model is required", "model")
    return body.asked


def _name(text: str, what: str) -> ModelName:
    try:
        return ModelName.parse(text)
    except InvalidModelName:
        raise BadRequest(f'{what} "{text[:100]}" is invalid', what) from None
