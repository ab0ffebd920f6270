"""How each setting is written, in which variables, and what it may be; docs/configuration.md is checked against it.

Reading them from their sources is `node.settings`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.setting_values import (
    parse_address,
    parse_addresses,
    parse_count,
    parse_duration,
    parse_name,
    parse_peers,
    parse_port,
    parse_size,
    parse_switch,
    parse_timeout,
    parse_wait,
    parse_words,
)

# A body travels to the runner in one frame, of at most 256 MiB, base64 images decoded and the rest as it came.
LARGEST_BODY_BYTES = 192 << 20
RAY_PORTS = 32  # of one machine's part of the Ray session, in a row
MAX_PARALLEL = 256  # LLAMA_MAX_SEQ of llama.cpp

# Which pages may call this node from a browser although nobody listed them: local ones and desktop apps, as Ollama.
LOCAL_ORIGINS = (
    *(
        f"{scheme}://{host}{port}"
        for host in ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 - a name in a URL, not a bind
        for scheme in ("http", "https")
        for port in ("", ":*")
    ),
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """How one setting is written. `parse` and `parse_ollama` raise ValueError for a value outside `allowed`."""

    key: str
    meaning: str
    allowed: str
    default: str
    parse: Callable[[Any], Any]
    field: str = ""
    ollama: str = ""
    parse_ollama: Callable[[Any], Any] | None = None

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"AYNI_{self.key.upper()}"

    @property
    def target(self) -> str:
        """The field of `Settings` that it fills."""
        return self.field or self.key


def _ray_port(value: Any) -> int:
    if (port := parse_port(value)) + RAY_PORTS > 1 << 16:
        raise ValueError(value)
    return port


def _one_of(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        word = value.strip().lower() if isinstance(value, str) else value
        if word not in words:
            raise ValueError(value)
        return str(word)

    return parse


def _count_or_auto(most: int) -> Callable[[Any], int | None]:
    def parse(value: Any) -> int | None:
        if (count := parse_count(value)) > most:
            raise ValueError(value)
        return count or None

    return parse


def _flash_attention(value: Any) -> str:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    return "on" if parse_switch(value) else "off"


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(value)
    return Path(value)


def _origins(value: Any) -> tuple[str, ...]:
    origins = parse_words(value)
    if not all(origin == "*" or "://" in origin for origin in origins):
        raise ValueError(value)
    return origins


def _url(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^/\s]+(/\S*)?", value.strip()):
        raise ValueError(value)
    return value.strip()


def _body_size(value: Any) -> int:
    if not 1 <= (size := parse_size(value)) <= LARGEST_BODY_BYTES:
        raise ValueError(value)
    return size


def _inverted_switch(value: Any) -> bool:
    return not parse_switch(value)


def _debug_level(value: Any) -> str:
    return "debug" if _is_debug(value) else "info"


def _is_debug(value: Any) -> bool:
    return bool(int(value)) if str(value).strip().lstrip("-").isdecimal() else parse_switch(value)


TABLE: tuple[Setting, ...] = (
    Setting(
        "host",
        "Where the node listens, and where the commands look for it.",
        'an address such as 127.0.0.1, 0.0.0.0:11434, "[::1]:8080" or http://name:port',
        "127.0.0.1:11434",
        parse_address,
        field="address",
        ollama="OLLAMA_HOST",
    ),
    Setting(
        "origins",
        "Web pages that may call the node from a browser, besides local ones. `*` stands for any text.",
        "origins such as https://chat.example.com, or *",
        "none",
        _origins,
        ollama="OLLAMA_ORIGINS",
    ),
    Setting(
        "allowed_hosts",
        "Host names under which the node may be addressed, besides loopback ones.",
        "host names, without port",
        "none",
        parse_words,
    ),
    Setting(
        "models_dir",
        "Where models are kept, in Ollama's layout; an existing Ollama folder can be used as it is.",
        "a folder",
        "`state_dir`/models",
        _path,
        ollama="OLLAMA_MODELS",
    ),
    Setting(
        "state_dir",
        "Where the node keeps everything else: caches, logs, its own records.",
        "a folder",
        "~/.ayni",
        _path,
    ),
    Setting(
        "context_length",
        "Context, in tokens, of a model whose request and Modelfile name none. 0: chosen by GPU memory "
        "(4096 below 24 GiB, 32768 below 48 GiB, else 262144), at most what the model was trained for.",
        "a number of tokens, or 0",
        "0",
        _count_or_auto(1 << 30),
        ollama="OLLAMA_CONTEXT_LENGTH",
    ),
    Setting(
        "num_parallel",
        "Requests that one loaded model works on at the same time. 0: as many as memory allows, at most 4.",
        f"a number from 0 to {MAX_PARALLEL}",
        "0",
        _count_or_auto(MAX_PARALLEL),
        ollama="OLLAMA_NUM_PARALLEL",
    ),
    Setting(
        "max_loaded_models",
        "Models held in memory at the same time. 0: three for each GPU, three without one.",
        "a number, or 0",
        "0",
        _count_or_auto(10**6),
        ollama="OLLAMA_MAX_LOADED_MODELS",
    ),
    Setting(
        "max_queue",
        "Requests that may wait for one model; further ones are refused with 503.",
        "a number",
        "512",
        parse_count,
        ollama="OLLAMA_MAX_QUEUE",
    ),
    Setting(
        "keep_alive",
        "How long an idle model stays in memory. 0: not at all; negative: for ever.",
        "a duration such as 5m, 24h or 300 (seconds), 0, or -1",
        "5m",
        parse_duration,
        field="keep_alive_s",
        ollama="OLLAMA_KEEP_ALIVE",
    ),
    Setting(
        "load_timeout",
        "How long loading a model may make no progress before it is given up. 0 or negative: for ever.",
        "a duration such as 5m or 300 (seconds), or 0",
        "5m",
        parse_timeout,
        field="load_timeout_s",
        ollama="OLLAMA_LOAD_TIMEOUT",
    ),
    Setting(
        "flash_attention",
        "Use flash attention: always, never, or where the device can.",
        "auto, on or off",
        "auto",
        _flash_attention,
        ollama="OLLAMA_FLASH_ATTENTION",
    ),
    Setting(
        "kv_cache_type",
        "How keys and values of the context are kept; q8_0 takes half the memory of f16, q4_0 a quarter.",
        "f16, q8_0 or q4_0",
        "f16",
        _one_of("f16", "q8_0", "q4_0"),
        ollama="OLLAMA_KV_CACHE_TYPE",
    ),
    Setting(
        "gpu_overhead",
        "Memory left free on each GPU.",
        "a size such as 536870912 or 512MiB",
        "0",
        parse_size,
        field="gpu_overhead_bytes",
        ollama="OLLAMA_GPU_OVERHEAD",
    ),
    Setting(
        "spread_gpus",
        "Spread a model over all GPUs even if it fits into one.",
        "true or false",
        "false",
        parse_switch,
        ollama="OLLAMA_SCHED_SPREAD",
    ),
    Setting(
        "max_body",
        "The largest request body that is read (model files are not bound by it).",
        "a size from 1 byte to 192MiB",
        "64MiB",
        _body_size,
        field="max_body_bytes",
    ),
    Setting(
        "history",
        "Whether the interactive prompt remembers what was typed.",
        "true or false",
        "true",
        parse_switch,
        ollama="OLLAMA_NOHISTORY",
        parse_ollama=_inverted_switch,
    ),
    Setting(
        "log_level",
        "How much is logged.",
        "debug, info, warning or error",
        "info",
        _one_of("debug", "info", "warning", "error"),
        ollama="OLLAMA_DEBUG",
        parse_ollama=_debug_level,
    ),
    Setting(
        "log_format",
        "How the log is written: lines for people, or one JSON object per line.",
        "text or json",
        "text",
        _one_of("text", "json"),
    ),
    Setting(
        "otlp_endpoint",
        "Where traces are sent by OTLP over HTTP; the variables that OpenTelemetry has for it work as well.",
        "a URL such as http://127.0.0.1:4318",
        "none",
        _url,
    ),
    Setting(
        "node_name",
        "What this machine is called in its cluster; without it, the host name it had when it joined.",
        "a name of up to 63 printable characters",
        "the host name",
        parse_name,
    ),
    Setting(
        "lan_port",
        "The port for other machines, open only while this machine belongs to a cluster.",
        "a port number",
        "11435",
        parse_port,
    ),
    Setting(
        "lan_host",
        "The addresses of this machine on which the LAN port is opened and under which others reach it.",
        "IP addresses, with commas",
        "all",
        parse_addresses,
        field="lan_hosts",
    ),
    Setting(
        "discovery",
        "Whether a member of a cluster announces itself by mDNS and looks for the others.",
        "auto or off",
        "auto",
        _one_of("auto", "off"),
    ),
    Setting(
        "interfaces",
        "Network interfaces for discovery, by name, pattern or address; Docker's bridges and VPNs only if named.",
        "names such as eth0, patterns such as en*, or addresses, with commas",
        "physical ones",
        parse_words,
    ),
    Setting(
        "static_peers",
        "Machines of the cluster to call besides those found by mDNS, for networks that block it.",
        "hosts or host:port pairs, with commas",
        "none",
        parse_peers,
    ),
    Setting(
        "ray",
        "Whether a member of a cluster takes part in its Ray session, which places models.",
        "auto or off",
        "auto",
        _one_of("auto", "off"),
    ),
    Setting(
        "ray_port",
        "The first of the ports of the Ray session; it takes a block of 32, here or, where those are taken, above.",
        "a port number up to 65504",
        "11440",
        _ray_port,
    ),
    Setting(
        "head",
        "Whether this machine is to be the head of the Ray session: like any other, before the others, or not at all.",
        "auto, prefer or never",
        "auto",
        _one_of("auto", "prefer", "never"),
    ),
    Setting(
        "suspend",
        "Whether a member of a cluster gives its work to the others before its machine sleeps (Linux with systemd).",
        "auto or off",
        "auto",
        _one_of("auto", "off"),
    ),
    Setting(
        "drain_timeout",
        "How long a member of a cluster that is told to stop goes on passing answers of other machines to its clients.",
        "a duration of up to an hour, such as 25s",
        "25s",
        parse_wait,
        field="drain_timeout_s",
    ),
)
