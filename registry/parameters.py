"""The parameters a model can carry (PARAMETER in a Modelfile, the params blob): names, types, reading them.

Source: Ollama's documentation of Modelfile parameters (api/types.go: Options).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from registry.errors import InvalidParameter, UnsupportedModel

ParameterValue: TypeAlias = bool | int | float | str | list[str]

PARAMETER_TYPES: Final[Mapping[str, type]] = {
    "num_ctx": int,
    "num_batch": int,
    "num_gpu": int,
    "main_gpu": int,
    "use_mmap": bool,
    "num_thread": int,
    "draft_num_predict": int,
    "num_keep": int,
    "seed": int,
    "num_predict": int,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "typical_p": float,
    "repeat_last_n": int,
    "temperature": float,
    "repeat_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "mirostat": int,
    "mirostat_tau": float,
    "mirostat_eta": float,
    "stop": list,
}
# Accepted and without effect, so that Modelfiles of any age can be used.
DEPRECATED_PARAMETERS: Final = frozenset(
    {"penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "numa", "num_gqa"}
)
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_INT64: Final = 1 << 63

log = logging.getLogger(__name__)


def parse_parameters(pairs: Iterable[tuple[str, str]]) -> dict[str, ParameterValue]:
    """Type the parameters of a Modelfile: of several the last counts, but every `stop` is kept.

    Raises: InvalidParameter: an unknown name, or text that is not of the parameter's type.
    """
    values: dict[str, ParameterValue] = {}
    stops: list[str] = []
    for name, text in pairs:
        if name in DEPRECATED_PARAMETERS:
            log.warning("parameter %s is deprecated and has no effect", name)
        elif (kind := PARAMETER_TYPES.get(name)) is None:
            raise InvalidParameter(name, f"unknown parameter '{name}'")
        elif kind is list:
            stops.append(text)
            values[name] = stops
        else:
            values[name] = _parse_scalar(name, kind, text)
    return values


def check_parameters(values: Mapping[str, Any]) -> dict[str, ParameterValue]:
    """Check parameters that came as JSON (`parameters` of /api/create).

    Raises: InvalidParameter: an unknown name, or a value of another type.
    """
    checked: dict[str, ParameterValue] = {}
    for name, value in values.items():
        if name in DEPRECATED_PARAMETERS or value is None:
            continue
        if (kind := PARAMETER_TYPES.get(name)) is None:
            raise InvalidParameter(name, f"unknown parameter '{name}'")
        checked[name] = _check_value(name, kind, value)
    return checked


def decode_parameters(data: bytes) -> dict[str, ParameterValue]:
    """Read a params blob of any age: what has no meaning here is left out.

    Raises: UnsupportedModel: it is no JSON object.
    """
    try:
        raw = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnsupportedModel(f"parameters: {error}") from error
    values: dict[str, ParameterValue] = {}
    for name, value in raw.items():
        try:
            values |= check_parameters({name: value})
        except InvalidParameter as error:
            log.warning("parameter left out: %s", error)
    return values


def _parse_scalar(name: str, kind: type, text: str) -> ParameterValue:
    if kind is bool:
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        raise InvalidParameter(name, f"invalid bool value {text!r} for {name}")
    try:
        value = int(text, 10) if kind is int else float(text)
    except ValueError:
        raise InvalidParameter(name, f"invalid {kind.__name__} value {text!r} for {name}") from None
    return _check_value(name, kind, value)


def _check_value(name: str, kind: type, value: Any) -> ParameterValue:
    if kind is list:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts):
            return list(texts)
    elif kind is bool:
        if isinstance(value, bool):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if kind is float:
            return float(value)
        if value == int(value) and -_INT64 <= value < _INT64:
            return int(value)
    expected = {list: "a list of strings", bool: "true or false", int: "an integer", float: "a number"}[kind]
    raise InvalidParameter(name, f"parameter '{name}' must be {expected}")
