"""What this node is told by its operator: defaults, then a TOML file, then `OLLAMA_*`, then `AYNI_*`, then flags.

A value that can't be used stops the start with one line (`InvalidSetting`), and so does a name that nobody knows: a
misspelt setting must not be silently ignored. What may be written is `node.setting_table`'s.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from node.errors import InvalidSetting
from node.setting_table import LOCAL_ORIGINS, TABLE, Setting
from node.setting_values import Address

MAX_CONFIG_BYTES = 1 << 20
# Variables with our prefix that speak to the scripts, not to the node.
OTHER_VARIABLES = frozenset({"AYNI_CONFIG", "AYNI_PYTHON", "AYNI_ENGINE", "AYNI_CACHE_DIR"})


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
