"""Write the trained network as a GGUF file, and as a model of the built-in store in Ollama's layout."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer
from torch import Tensor

from .chat import TEMPLATE_TEXT
from .network import Network
from .tokenizer import CONTROL_TOKENS, MARKUP_TOKENS, PRE_TOKENIZER, TEXT_END, TURN_END, TURN_START

CONTEXT_TOKENS = 4096
PARAMETERS = {"stop": [TURN_START, TURN_END], "temperature": 0.2, "top_p": 0.9}
_NAME = ("registry.ollama.ai", "library", "demo", "latest")


def write_gguf(network: Network, tokenizer: Tokenizer, path: Path) -> None:
    """Write `path`: matrices in Q8_0, norms in F32, vocabulary and chat template in the metadata."""
    shape = network.shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("Ayni Demo")
    writer.add_basename("demo")
    writer.add_description("A toy for trying and testing Ayni")
    writer.add_license("MIT")
    writer.add_size_label(f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}M")
    writer.add_languages(["en"])
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_vocabulary(writer, tokenizer)
    for name, tensor in _tensors(network).items():
        array = tensor.detach().float().numpy()
        if array.ndim == 1:
            writer.add_tensor(name, array)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens = [by_id[index] for index in range(len(by_id))]
    kinds = dict.fromkeys(CONTROL_TOKENS, gguf.TokenType.CONTROL)
    kinds |= dict.fromkeys(MARKUP_TOKENS, gguf.TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.token_to_id(TEXT_END))
    writer.add_eos_token_id(tokenizer.token_to_id(TURN_END))
    writer.add_eot_token_id(tokenizer.token_to_id(TURN_END))
    writer.add_pad_token_id(tokenizer.token_to_id(TEXT_END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE_TEXT)


def _tensors(network: Network) -> dict[str, Tensor]:
    """The network's tensors under llama.cpp's names; fused matrices taken apart."""
    shape = network.shape
    sizes = [shape.heads * shape.head_width, shape.key_heads * shape.head_width, shape.key_heads * shape.head_width]
    tensors: dict[str, Tensor] = {"token_embd.weight": network.embedding}
    for index, layer in enumerate(network.layers):
        query, key, value = layer.query_key_value.split(sizes)
        gate, up = layer.gate_up.chunk(2)
        parts = {
            "attn_norm": layer.attention_norm,
            "attn_q": _interleaved(query, shape.head_width),
            "attn_k": _interleaved(key, shape.head_width),
            "attn_v": value,
            "attn_output": layer.attention_out,
            "ffn_norm": layer.feed_norm,
            "ffn_gate": gate,
            "ffn_up": up,
            "ffn_down": layer.down,
        }
        tensors |= {f"blk.{index}.{name}.weight": tensor for name, tensor in parts.items()}
    return tensors | {"output_norm.weight": network.output_norm}


def _interleaved(rows: Tensor, head_width: int) -> Tensor:
    """Rows in the order in which llama.cpp rotates them: pairs (i, i + half) become neighbours."""
    return rows.unflatten(0, (-1, 2, head_width // 2)).transpose(1, 2).flatten(0, 2)


def write_store(weights: Path, license_text: str, root: Path) -> None:
    """Make `root` a store that holds nothing but this model: blobs, config and manifest."""
    blobs = root / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for old in blobs.iterdir():
        old.unlink()
    layers = [
        _write_blob(blobs, weights.read_bytes(), "application/vnd.ollama.image.model"),
        _write_blob(blobs, license_text.encode(), "application/vnd.ollama.image.license"),
        _write_blob(blobs, _compact(PARAMETERS), "application/vnd.ollama.image.params"),
    ]
    parameters = gguf.GGUFReader(weights)
    count = sum(int(tensor.n_elements) for tensor in parameters.tensors)
    config = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": f"{count / 1e6:.2f}M",
        "file_type": "Q8_0",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": _write_blob(blobs, _compact(config), "application/vnd.docker.container.image.v1+json"),
        "layers": layers,
    }
    path = root.joinpath("manifests", *_NAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_compact(manifest))


def _write_blob(blobs: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (blobs / f"sha256-{digest}").write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
