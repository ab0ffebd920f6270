from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from node.errors import InvalidSetting
from node.runner.protocol import MAX_FRAME_BYTES
from node.setting_table import LARGEST_BODY_BYTES, TABLE
from node.setting_values import Address
from node.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent.parent


def settings_in(home: Path, text: str = "", **variables: str) -> Settings:
    file = home / ".config/ayni/ayni.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return load_settings({"HOME": str(home), **variables})


def test_without_a_word_the_defaults_are_ollamas_and_the_folders_ours(tmp_path: Path) -> None:
    settings = load_settings({"HOME": str(tmp_path)})
    assert settings == Settings(models_dir=tmp_path / ".ayni/models", state_dir=tmp_path / ".ayni")
    assert (settings.host, settings.port, settings.keep_alive_s, settings.max_queue) == ("127.0.0.1", 11434, 300, 512)
    assert settings.cache_dir == tmp_path / ".ayni/cache"


def test_a_later_source_wins_over_an_earlier_one(tmp_path: Path) -> None:
    text = 'keep_alive = "1m"\nmax_queue = 1\nnum_parallel = 2\nhost = "1.1.1.1"\n'
    variables = {
        "OLLAMA_MAX_QUEUE": "3",
        "OLLAMA_NUM_PARALLEL": "4",
        "AYNI_NUM_PARALLEL": "5",
        "OLLAMA_HOST": "2.2.2.2",
    }
    settings = settings_in(tmp_path, text, **variables)
    assert (settings.keep_alive_s, settings.max_queue, settings.num_parallel, settings.host) == (60, 3, 5, "2.2.2.2")
    flagged = load_settings({"HOME": str(tmp_path), **variables}, flags={"host": "3.3.3.3:1"})
    assert flagged.address == Address(host="3.3.3.3", port=1)


def test_variables_may_carry_quotes_and_an_empty_one_says_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, OLLAMA_KEEP_ALIVE=' "-1" ', OLLAMA_HOST="", AYNI_MAX_QUEUE="''")
    assert settings.keep_alive_s == math.inf
    assert settings.address == Address()
    assert settings.max_queue == 512


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("OLLAMA_MODELS", "~/m", "models_dir", None),
        ("OLLAMA_FLASH_ATTENTION", "1", "flash_attention", "on"),
        ("OLLAMA_FLASH_ATTENTION", "false", "flash_attention", "off"),
        ("OLLAMA_DEBUG", "1", "log_level", "debug"),
        ("OLLAMA_DEBUG", "2", "log_level", "debug"),
        ("OLLAMA_DEBUG", "0", "log_level", "info"),
        ("OLLAMA_NOHISTORY", "1", "history", False),
        ("OLLAMA_LOAD_TIMEOUT", "0", "load_timeout_s", math.inf),
        ("OLLAMA_GPU_OVERHEAD", "1024", "gpu_overhead_bytes", 1024),
        ("OLLAMA_CONTEXT_LENGTH", "0", "context_length", None),
        ("OLLAMA_ORIGINS", "https://a.example,chrome-extension://*", "origins",
         ("https://a.example", "chrome-extension://*")),
        ("OLLAMA_KV_CACHE_TYPE", "Q8_0", "kv_cache_type", "q8_0"),
        ("OLLAMA_SCHED_SPREAD", "1", "spread_gpus", True),
    ],
)  # fmt: skip
def test_ollamas_variables_mean_the_same_here(
    tmp_path: Path, name: str, value: str, field: str, expected: object
) -> None:
    settings = settings_in(tmp_path, **{name: value})
    assert getattr(settings, field) == (tmp_path / "m" if field == "models_dir" else expected)


@pytest.mark.parametrize(
    ("text", "variables", "line"),
    [
        ("", {"OLLAMA_KEEP_ALIVE": "5x"},
         "bad setting OLLAMA_KEEP_ALIVE = '5x': must be a duration such as 5m, 24h or 300 (seconds), 0, or -1"),
        ("", {"AYNI_KV_CACHE_TYPE": "q2"}, "bad setting AYNI_KV_CACHE_TYPE = 'q2': must be f16, q8_0 or q4_0"),
        ("", {"AYNI_MAX_QUEU": "1"}, "bad setting AYNI_MAX_QUEU: no such setting; did you mean AYNI_MAX_QUEUE?"),
        ("", {"AYNI_XYZ": "1"}, "bad setting AYNI_XYZ: no such setting"),
        ("", {"AYNI_ORIGINS": "example.com"},
         "bad setting AYNI_ORIGINS = 'example.com': must be origins such as https://chat.example.com, or *"),
        ("max_queue = -1", {}, "bad setting {file}:max_queue = '-1': must be a number"),
        ("models_dir = 3", {}, "bad setting {file}:models_dir = '3': must be a folder"),
        ("keepalive = 3", {}, "bad setting {file}:keepalive: no such setting; did you mean keep_alive?"),
        ("", {"AYNI_CONFIG": "/nowhere/x.toml"}, "bad setting AYNI_CONFIG = '/nowhere/x.toml': no such file"),
        ('kv_cache_type = "q8_0"', {"OLLAMA_FLASH_ATTENTION": "0"},
         "bad setting kv_cache_type = 'q8_0': only f16 works with flash_attention off"),
        ("", {"AYNI_STATIC_PEERS": "desk,10.0.0.1:99999"},
         "bad setting AYNI_STATIC_PEERS = 'desk,10.0.0.1:99999': must be hosts or host:port pairs, with commas"),
        ("ray_port = 65505", {}, "bad setting {file}:ray_port = '65505': must be a port number up to 65504"),
        ("num_parallel = 257", {}, "bad setting {file}:num_parallel = '257': must be a number from 0 to 256"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_named_in_one_line(tmp_path: Path, text: str, variables: dict[str, str], line: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        settings_in(tmp_path, text, **variables)
    assert str(caught.value) == line.format(file=tmp_path / ".config/ayni/ayni.toml")


def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"ayni\.toml: not TOML \(.*line 1"):
        settings_in(tmp_path, "host = x\n")


def test_a_config_file_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("max_queue = 7")
    assert load_settings({"HOME": str(tmp_path), "AYNI_CONFIG": "~/mine.toml"}).max_queue == 7


def test_every_body_that_is_accepted_fits_a_frame() -> None:
    assert LARGEST_BODY_BYTES < MAX_FRAME_BYTES


def test_the_documentation_lists_every_setting_as_the_code_has_it() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| `[a-z_]+` .*$", page, re.MULTILINE)
    expected = [
        f"| `{s.key}` | `{s.variable}` | {f'`{s.ollama}`' if s.ollama else ''} | {s.default} "
        f"| {s.meaning} Allowed: {s.allowed}. |"
        for s in TABLE
    ]
    assert rows == expected
