from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cli.create import LocalFile, plan_request
from registry import Modelfile, ModelfileError
from tests.cli.scripted_node import Command, Reply, ScriptedNode

WEIGHTS, ADAPTER = b"GGUF" + b"w" * 3_000_000, b"GGUF adapter"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "tiny.gguf").write_bytes(WEIGHTS)
    (made / "lora.gguf").write_bytes(ADAPTER)
    return made


@pytest.fixture
def creator(with_node: Command, node: ScriptedNode) -> Command:
    for data in (WEIGHTS, ADAPTER):
        node.answers[f"HEAD /api/blobs/{digest(data)}"] = Reply(status=404)
        node.answers[f"POST /api/blobs/{digest(data)}"] = Reply(status=201)
    steps = ["parsing GGUF", "writing manifest", "writing manifest", "success"]
    node.answers["POST /api/create"] = Reply([{"status": step} for step in steps])
    return with_node


MODELFILE = '''\
# mine
FROM ./tiny.gguf
ADAPTER lora.gguf
TEMPLATE """{{ .System }}
{{ .Prompt }}"""
SYSTEM Be kind.
PARAMETER temperature 0.5
PARAMETER stop a
PARAMETER stop b
LICENSE MIT
MESSAGE user Hi
MESSAGE assistant Hello
REQUIRES v0.13.0
'''


def test_files_go_to_the_node_and_the_rest_into_the_request(
    creator: Command, node: ScriptedNode, folder: Path, tmp_path: Path
) -> None:
    (folder / "My.modelfile").write_text(MODELFILE)
    done = creator("create", "mine", "-f", "model/My.modelfile", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "parsing GGUF\nwriting manifest\nsuccess\n"
    assert node.asked_of(f"POST /api/blobs/{digest(WEIGHTS)}") == [WEIGHTS]
    assert node.asked_of("POST /api/create") == [
        {
            "model": "mine",
            "files": {"tiny.gguf": digest(WEIGHTS)},
            "adapters": {"lora.gguf": digest(ADAPTER)},
            "template": "{{ .System }}\n{{ .Prompt }}",
            "system": "Be kind.",
            "parameters": {"temperature": 0.5, "stop": ["a", "b"]},
            "license": ["MIT"],
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
            "requires": "0.13.0",
        }
    ]


def test_a_blob_that_the_node_has_is_not_sent_again(creator: Command, node: ScriptedNode, folder: Path) -> None:
    node.answers[f"HEAD /api/blobs/{digest(WEIGHTS)}"] = Reply()
    (folder / "Modelfile").write_text("FROM tiny.gguf\n")
    assert creator("create", "mine", cwd=folder).returncode == 0
    assert node.asked_of(f"POST /api/blobs/{digest(WEIGHTS)}") == []


def test_a_refused_blob_names_the_file(creator: Command, node: ScriptedNode, folder: Path) -> None:
    node.answers[f"POST /api/blobs/{digest(WEIGHTS)}"] = Reply({"error": "no space left"}, 507)
    (folder / "Modelfile").write_text("FROM tiny.gguf\n")
    done = creator("create", "mine", cwd=folder)
    assert (done.returncode, done.stderr) == (1, "Error: could not copy tiny.gguf: no space left\n")


def test_an_error_of_the_node_ends_it(creator: Command, node: ScriptedNode, folder: Path) -> None:
    node.answers["POST /api/create"] = Reply([{"status": "parsing GGUF"}, {"error": "invalid file magic"}])
    (folder / "Modelfile").write_text("FROM tiny.gguf\n")
    done = creator("create", "mine", cwd=folder)
    assert (done.returncode, done.stderr) == (1, "parsing GGUF\nError: invalid file magic\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM tiny.gguf\nPARAMETER warmth 1\n", "Modelfile:2: unknown parameter 'warmth'"),
        ("FROM tiny.gguf\n\nFROBNICATE x\n", "Modelfile:3: command must be one of"),
        ("FROM ./absent.gguf\n", "Modelfile:1: no such file: {folder}/absent.gguf"),
        ("FROM demo\nADAPTER absent\n", "Modelfile:2: no such file: {folder}/absent"),
        ("FROM demo\nDRAFT tiny.gguf\n", "Modelfile:2: DRAFT is not supported"),
        ("SYSTEM x\n", "Modelfile: no FROM line"),
    ],
)
def test_a_bad_modelfile_is_one_line_with_its_number(ayni: Command, folder: Path, text: str, said: str) -> None:
    (folder / "Modelfile").write_text(text)
    done = ayni("create", "mine", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {said.format(folder=folder)}")
    assert len(done.stderr.splitlines()) == 1


def test_a_modelfile_that_is_not_there_is_said(ayni: Command, tmp_path: Path) -> None:
    assert ayni("create", "mine", cwd=tmp_path).stderr == "Error: specified Modelfile wasn't found: Modelfile\n"


def test_from_names_a_model_a_file_or_a_folder(folder: Path) -> None:
    assert plan_request("m", Modelfile.parse("FROM demo:latest"), folder).body == {"model": "m", "from": "demo:latest"}
    of_folder = plan_request("m", Modelfile.parse("FROM ."), folder)
    assert of_folder.files == (LocalFile(folder / "lora.gguf", "files"), LocalFile(folder / "tiny.gguf", "files"))
    assert plan_request("m", Modelfile.parse(f"FROM {folder}/tiny.gguf"), Path("/")).files == of_folder.files[1:]
    (folder / "empty").mkdir()
    with pytest.raises(ModelfileError, match="no GGUF file"):
        plan_request("m", Modelfile.parse("FROM empty"), folder)
