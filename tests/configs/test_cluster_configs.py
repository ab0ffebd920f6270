"""The example configurations do what they say, as far as that shows on the machine that runs the tests."""

from __future__ import annotations

import plistlib
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from node.setting_table import TABLE
from node.settings import load_settings

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "cluster-configs"
PROFILES = sorted(CONFIGS.rglob("*.toml"))


def test_there_is_a_profile_for_each_place() -> None:
    names = {str(path.relative_to(CONFIGS)) for path in PROFILES}
    assert names == {"laptop.toml", "office.toml", "home/desktop.toml", "home/mini-pc.toml", "home/macbook.toml"}
    page = (CONFIGS / "README.md").read_text()
    for name in [*names, "ayni.service", "ayni.daemon.plist", "Dockerfile", "compose.yaml"]:
        assert f"[{name}]({name})" in page


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_profile_is_read_by_the_node(path: Path) -> None:
    settings = load_settings({"HOME": "/home/anna", "AYNI_CONFIG": str(path)})
    assert settings.host == "127.0.0.1"
    given = set(tomllib.loads(path.read_text()))
    for setting in TABLE:
        if setting.key in given:
            assert getattr(settings, setting.target) != (), setting.key


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_what_is_commented_out_can_be_used_too(path: Path, tmp_path: Path) -> None:
    uncommented = tmp_path / "ayni.toml"
    uncommented.write_text(re.sub(r"(?m)^# (\w+ = )", r"\1", path.read_text()))
    load_settings({"HOME": "/home/anna", "AYNI_CONFIG": str(uncommented)})


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "ayni.service"
    text = (CONFIGS / "ayni.service").read_text()
    # The command and its user are not on this machine.
    text = re.sub(r"(?m)^(User|Group)=.*\n", "", text.replace("/usr/local/bin/ayni", "/bin/true"))
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_sets_only_what_the_node_knows() -> None:
    text = (CONFIGS / "ayni.service").read_text()
    match = re.search(r"(?m)^Environment=(.*)$", text)
    assert match
    environ = dict(item.split("=", 1) for item in shlex.split(match[1]))
    assert str(load_settings(environ).state_dir) == "/var/lib/ayni"


def test_the_property_list_starts_a_node_and_keeps_it_up() -> None:
    job: dict[str, Any] = plistlib.loads((CONFIGS / "ayni.daemon.plist").read_bytes())
    assert job["Label"] == "ayni.daemon"
    assert job["ProgramArguments"] == ["/usr/local/bin/ayni", "serve"]
    assert job["RunAtLoad"] is True
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    load_settings(job["EnvironmentVariables"])


def instructions() -> list[tuple[str, str]]:
    text = (CONFIGS / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def test_the_image_is_made_of_files_that_exist_and_reach_the_builder() -> None:
    sent = (CONFIGS / "Dockerfile.dockerignore").read_text().split()
    copied = [
        word for name, rest in instructions() if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    ]
    assert copied
    for word in copied:
        assert (ROOT / word).exists(), word
        assert f"!{word}" in sent
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) <= set(copied)


def test_the_image_starts_a_node_with_settings_that_it_knows() -> None:
    last = dict(instructions())
    assert (last["ENTRYPOINT"], last["CMD"]) == ('["ayni"]', '["serve"]')
    environ = dict(re.findall(r"(\w+)=(\S+)", last["ENV"]))
    settings = load_settings({key: value for key, value in environ.items() if key != "PATH"})
    assert (settings.host, settings.port) == ("0.0.0.0", 11434)
    assert last["USER"] == "ayni"


def test_compose_runs_that_image_with_settings_that_the_node_knows() -> None:
    yaml = pytest.importorskip("yaml")
    text = (CONFIGS / "compose.yaml").read_text()
    for variant in (text, re.sub(r"(?m)^(\s+)# (AYNI_\w+: )", r"\1\2", text)):
        service = yaml.safe_load(variant)["services"]["node"]
        assert (CONFIGS / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert load_settings({"HOME": "/x"} | service["environment"]).host == "127.0.0.1"
        assert service["network_mode"] == "host"
        assert service["volumes"] == ["state:/var/lib/ayni"]
    assert load_settings({"HOME": "/x"} | service["environment"]).static_peers == ("10.20.0.12:11435",)
