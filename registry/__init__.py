"""Names, blobs, manifests, Modelfiles and GGUF facts: the models stored on one machine.

Knows nothing of inference. Everything here is light to import; the `gguf` library and numpy are only ever
imported by a child process.
"""

from registry.blobs import BlobStore, BlobWriter
from registry.capabilities import capabilities_of, is_go_template
from registry.card import CardBox, ModelCard
from registry.digest import Digest
from registry.errors import (
    BlobError,
    BlobNotFound,
    BuiltinModel,
    CorruptBlob,
    DigestMismatch,
    InvalidDigest,
    InvalidGguf,
    InvalidManifest,
    InvalidModelName,
    InvalidParameter,
    ModelfileError,
    ModelNotFound,
    RegistryError,
    StorageFull,
    UnsupportedModel,
)
from registry.gguf_facts import ArrayFact, GgufFacts, RecurrentFact, TensorFact, read_gguf_facts
from registry.manifest import Config, Layer, Manifest, people_count
from registry.model import ChatTurn, Model
from registry.modelfile import Command, Modelfile
from registry.names import ModelName
from registry.parameters import (
    DEPRECATED_PARAMETERS,
    PARAMETER_TYPES,
    ParameterValue,
    check_parameters,
    parse_parameters,
)
from registry.recipe import Recipe, check_version
from registry.store import ModelStore
from registry.verify import Finding

__all__ = [
    "DEPRECATED_PARAMETERS",
    "PARAMETER_TYPES",
    "ArrayFact",
    "BlobError",
    "BlobNotFound",
    "BlobStore",
    "BlobWriter",
    "BuiltinModel",
    "CardBox",
    "ChatTurn",
    "Command",
    "Config",
    "CorruptBlob",
    "Digest",
    "DigestMismatch",
    "Finding",
    "GgufFacts",
    "InvalidDigest",
    "InvalidGguf",
    "InvalidManifest",
    "InvalidModelName",
    "InvalidParameter",
    "Layer",
    "Manifest",
    "Model",
    "ModelCard",
    "ModelName",
    "ModelNotFound",
    "ModelStore",
    "Modelfile",
    "ModelfileError",
    "ParameterValue",
    "Recipe",
    "RecurrentFact",
    "RegistryError",
    "StorageFull",
    "TensorFact",
    "UnsupportedModel",
    "capabilities_of",
    "check_parameters",
    "check_version",
    "is_go_template",
    "parse_parameters",
    "people_count",
    "read_gguf_facts",
]
