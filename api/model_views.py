"""Stored models as Ollama's API shows them: /api/tags, /api/show, the details of /api/ps. Blocks on the disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from api.clock import FOREVER, time_text
from api.daemon import KnownModel, ModelShelf
from node.supervisor import LoadedModel
from registry import GgufFacts, Model, ModelName, ModelStore, RegistryError

# Lists longer than this are shown empty unless the request is verbose, as in Ollama.
SHORT_ARRAY = 5


def details_of(model: Model, facts: GgufFacts | None = None) -> dict[str, Any]:
    """Family, size and quantisation."""
    config = model.config
    details: dict[str, Any] = {
        "parent_model": model.parent,
        "format": config.model_format or "gguf",
        "family": config.model_family,
        "families": list(config.model_families or ()) or None,
        "parameter_size": config.model_type,
        "quantization_level": config.file_type,
    }
    if facts is not None:
        details |= {"context_length": facts.context_length, "embedding_length": facts.embedding_length}
    return details


def bare_entry(model: Model) -> dict[str, Any]:
    """What a line of /api/tags says of a model by its manifest alone."""
    return {
        "name": str(model.name),
        "model": str(model.name),
        "modified_at": time_text(model.modified_at),
        "size": model.size_bytes,
        "digest": model.digest.hex,
    }


def tag_entry(shelf: ModelShelf, model: Model) -> dict[str, Any]:
    """A line of /api/tags. A model whose files are damaged is listed all the same, with less said of it."""
    entry = bare_entry(model)
    try:
        known = shelf.describe(model)
        return entry | {"details": details_of(model, model.facts()), "capabilities": known.capabilities}
    except RegistryError:
        return entry | {"details": details_of(model), "capabilities": []}


def loaded_entries(store: ModelStore, loaded: Sequence[LoadedModel]) -> list[dict[str, Any]]:
    """The lines of /api/ps; of a model whose manifest is gone, only what is in memory is known."""
    return [
        {
            "name": str(item.name),
            "model": str(item.name),
            "size": item.size_bytes,
            "digest": item.digest.hex,
            "details": _details_by_name(store, item.name),
            "expires_at": time_text(item.expires_at or FOREVER),
            "size_vram": item.vram_bytes,
            "context_length": item.context_tokens,
        }
        for item in loaded
    ]


def _details_by_name(store: ModelStore, name: ModelName) -> dict[str, Any]:
    try:
        return details_of(store.resolve(name))
    except RegistryError:
        return {}


def show_object(known: KnownModel, *, verbose: bool, system: str = "") -> dict[str, Any]:
    """The answer of /api/show; `system` stands in for the model's own. Raises RegistryError."""
    model = known.model
    facts = model.facts()
    fields: dict[str, Any] = {
        "license": "\n".join(model.licenses),
        "modelfile": model.modelfile(),
        "parameters": _parameter_lines(model),
        "template": (facts.chat_template or "") if model.template is None else model.template,
        "system": system or model.system or "",
        "details": details_of(model),
        "messages": [{"role": turn.role, "content": turn.content} for turn in model.messages],
        "model_info": model_info(facts, verbose=verbose),
        "tensors": [
            {"name": tensor.name, "type": tensor.type, "shape": tensor.shape} for tensor in facts.tensors if verbose
        ],
        "requires": model.requires or "",
    }
    shown = {name: value for name, value in fields.items() if value or name in {"details", "model_info"}}
    return shown | {"capabilities": known.capabilities, "modified_at": time_text(model.modified_at)}


def model_info(facts: GgufFacts, *, verbose: bool) -> dict[str, Any]:
    """The GGUF's metadata. Texts of token lists are not kept, so those arrays are always shown empty."""
    info: dict[str, Any] = {**facts.metadata, "general.parameter_count": facts.parameter_count}
    for key, fact in facts.arrays.items():
        info[key] = list(fact.values) if verbose or fact.length <= SHORT_ARRAY else []
    hidden = ("general.name", "tokenizer.chat_template")
    return {key: info[key] for key in sorted(info) if key not in hidden}


def _parameter_lines(model: Model) -> str:
    lines: list[str] = []
    for name, value in model.parameters.items():
        lines += [f"{name:<30} {_parameter_text(item)}" for item in (value if isinstance(value, list) else [value])]
    return "\n".join(lines)


def _parameter_text(value: Any) -> str:
    if isinstance(value, str):
        return '"' + re.sub(r'(["\\])', r"\\\1", value).replace("\n", "\\n") + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def openai_model(model: Model, shown_as: str = "") -> dict[str, Any]:
    """An entry of /v1/models; `shown_as`: the name that the client used."""
    return {
        "id": shown_as or str(model.name),
        "object": "model",
        "created": int(model.modified_at.timestamp()),
        "owned_by": model.name.namespace,
    }


def openai_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of /v1/models from a line of /api/tags."""
    return {
        "id": entry["name"],
        "object": "model",
        "created": int(datetime.fromisoformat(entry["modified_at"]).timestamp()),
        "owned_by": ModelName.parse(entry["name"]).namespace,
    }


def tag_entries(shelf: ModelShelf, models: Sequence[Model]) -> list[dict[str, Any]]:
    """All lines of /api/tags."""
    return [tag_entry(shelf, model) for model in models]
