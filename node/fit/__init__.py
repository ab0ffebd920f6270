"""Will a model fit, and where: bytes from a GGUF's facts, layers onto devices. Pure; checked against llama.cpp."""

from __future__ import annotations

from node.fit.choice import LoadChoice, LoadWish, choose_load, default_context_tokens
from node.fit.memory import ContextShape, Estimate, estimate
from node.fit.placement import Placement, place
from node.fit.shape import LayerShape, ModelShape

__all__ = [
    "ContextShape",
    "Estimate",
    "LayerShape",
    "LoadChoice",
    "LoadWish",
    "ModelShape",
    "Placement",
    "choose_load",
    "default_context_tokens",
    "estimate",
    "place",
]
