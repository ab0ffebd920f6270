"""What this node is told by its operator: defaults, then a TOML file, then `OLLAMA_*`, then `AYNI_*`, then flags.

One table says for each setting how it is written, in which variables, and what it may be; docs/configuration.md
is checked against it. A value that can't be used stops the start with one line (`InvalidSetting`), and so does a
name that nobody knows: a misspelt setting must not be silently ignored.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from node.errors import InvalidSetting
from node.setting_values import (
    Address,
    parse_address,
    parse_addresses,
    parse_count,
    parse_duration,
    parse_name,
    parse_port,
    parse_size,
    parse_switch,
    parse_timeout,
    parse_wait,
    parse_words,
)

MAX_CONFIG_BYTES = 1 << 20
# A body travels to the runner in one frame, of at most 256 MiB, base64 images decoded and the rest as it came.
LARGEST_BODY_BYTES = 192 << 20
MAX_PARALLEL = 256  # LLAMA_MAX_SEQ of llama.cpp
# Variables with our prefix that speak to the scripts, not to the node.
OTHER_VARIABLES = frozenset({"AYNI_CONFIG", "AYNI_PYTHON", "AYNI_ENGINE", "AYNI_CACHE_DIR"})

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


class Settings(Struct, frozen=True, kw_only=True):
    """Everything an operator can choose; None (or "auto") leaves the choice to the node.

    `keep_alive_s` and `load_timeout_s` are math.inf for "for ever".
    """

    models_dir: Path
    state_dir: Path
    address: Address = Address()
    origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    context_length: int | None = None
    num_parallel: int | None = None
    max_loaded_models: int | None = None
    max_queue: int = 512
    keep_alive_s: float = 300.0
    load_timeout_s: float = 300.0
    flash_attention: Literal["auto", "on", "off"] = "auto"
    kv_cache_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    gpu_overhead_bytes: int = 0
    spread_gpus: bool = False
    max_body_bytes: int = 64 << 20
    history: bool = True
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    otlp_endpoint: str = ""
    node_name: str = ""
    lan_port: int = 11435
    lan_hosts: tuple[str, ...] = ()
    discovery: Literal["auto", "off"] = "auto"
    interfaces: tuple[str, ...] = ()
    static_peers: tuple[str, ...] = ()
    ray: Literal["auto", "off"] = "auto"
    ray_port: int = 11440
    head: Literal["auto", "prefer", "never"] = "auto"
    suspend: Literal["auto", "off"] = "auto"
    drain_timeout_s: float = 25.0

    @property
    def host(self) -> str:
        """The address to listen on."""
        return self.address.host

    @property
    def port(self) -> int:
        """The port to listen on; 0 lets the system choose."""
        return self.address.port

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The configured origins and the ones that are always allowed; `*` stands for any text."""
        return (*self.origins, *LOCAL_ORIGINS)

    @property
    def cache_dir(self) -> Path:
        """What can be computed again."""
        return self.state_dir / "cache"

    @property
    def log_dir(self) -> Path:
        """Logs of the daemon and of its runners."""
        return self.state_dir / "logs"


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
        "What this machine is called in its cluster.",
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
        "host:port pairs, with commas",
        "none",
        parse_words,
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
        "a port number",
        "11440",
        parse_port,
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


def load_settings(environ: Mapping[str, str] | None = None, *, flags: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of this process.

    Args:
        environ: environment variables; None: those of the process.
        flags: settings given on the command line, by key ("keep_alive").
    Raises: InvalidSetting: a value that can't be used, an unknown name, an unreadable file.
    """
    variables = os.environ if environ is None else environ
    home = Path(variables.get("HOME") or Path.home())
    values: dict[str, Any] = {}
    _read_file(variables, home, values)
    _read_variables(variables, values)
    by_key = {setting.key: setting for setting in TABLE}
    for key, text in (flags or {}).items():
        _take(by_key[key], text, f"--{key.replace('_', '-')}", by_key[key].parse, values)
    return _settle(values, home)


def _settle(values: dict[str, Any], home: Path) -> Settings:
    """Fill in the folders, which depend on each other, and check what only makes sense together."""
    state_dir = _absolute(values.get("state_dir", home / ".ayni"), home)
    values["state_dir"] = state_dir
    values["models_dir"] = _absolute(values.get("models_dir", state_dir / "models"), home)
    settings = Settings(**values)
    if settings.flash_attention == "off" and settings.kv_cache_type != "f16":
        raise InvalidSetting("kv_cache_type", settings.kv_cache_type, "only f16 works with flash_attention off")
    return settings


def _absolute(path: Path, home: Path) -> Path:
    if path.parts[:1] == ("~",):
        path = home.joinpath(*path.parts[1:])
    return path.absolute()


def _read_file(variables: Mapping[str, str], home: Path, values: dict[str, Any]) -> None:
    named = variables.get("AYNI_CONFIG", "").strip()
    folder = Path(variables.get("XDG_CONFIG_HOME") or home / ".config")
    path = _absolute(Path(named), home) if named else folder / "ayni" / "ayni.toml"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        if named:
            raise InvalidSetting("AYNI_CONFIG", named, "no such file") from None
        return
    except OSError as error:
        raise InvalidSetting(str(path), "", f"can't be read ({error.strerror})") from None
    if len(content) > MAX_CONFIG_BYTES:
        raise InvalidSetting(str(path), "", "larger than 1 MiB")
    import tomllib  # only here: most machines have no such file, and every verb of the CLI comes by

    try:
        document = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSetting(str(path), "", f"not TOML ({error})") from None
    by_key = {setting.key: setting for setting in TABLE}
    for key, value in document.items():
        if key not in by_key:
            raise InvalidSetting(f"{path}:{key}", "", _unknown(key, list(by_key)))
        _take(by_key[key], value, f"{path}:{key}", by_key[key].parse, values)


def _read_variables(variables: Mapping[str, str], values: dict[str, Any]) -> None:
    ours = {setting.variable for setting in TABLE} | OTHER_VARIABLES
    for name in sorted(variables):
        if name.startswith("AYNI_") and name not in ours:
            raise InvalidSetting(name, "", _unknown(name, sorted(ours)))
    for setting in TABLE:
        for name, parse in (
            (setting.ollama, setting.parse_ollama or setting.parse),
            (setting.variable, setting.parse),
        ):
            # Shells and unit files leave quotes and spaces around; Ollama strips them too.
            if text := variables.get(name, "").strip().strip("\"'"):
                _take(setting, text, name, parse, values)


def _take(setting: Setting, value: object, source: str, parse: Callable[[Any], Any], values: dict[str, Any]) -> None:
    try:
        values[setting.target] = parse(value)
    except (ValueError, OverflowError):
        shown = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
        raise InvalidSetting(source, shown[:200], f"must be {setting.allowed}") from None


def _unknown(name: str, known: list[str]) -> str:
    # Compared without the prefix, which would make any two variables look alike.
    bare = {other.removeprefix("AYNI_"): other for other in known}
    close = difflib.get_close_matches(name.removeprefix("AYNI_"), bare, n=1, cutoff=0.6)
    return f"no such setting; did you mean {bare[close[0]]}?" if close else "no such setting"
