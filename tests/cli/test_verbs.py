from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.app import VERBS
from cli.verb import Verb
from tests.cli.scripted_node import Command, Reply, ScriptedNode

DIGEST = "ab12" * 16


def ago(**length: float) -> str:
    return (datetime.now(UTC) - timedelta(**length)).isoformat().replace("+00:00", "123Z")


def tags() -> Reply:
    return Reply(
        {
            "models": [
                {"name": "demo:latest", "digest": DIGEST, "size": 8_249_999, "modified_at": ago(days=3)},
                {"name": "Qwen3:8b\x1b[2J", "digest": DIGEST, "size": 5_200_000_000, "modified_at": "?"},
            ]
        }
    )


def test_list_prints_ollamas_columns(with_node: Command, node: ScriptedNode) -> None:
    node.answers["GET /api/tags"] = tags()
    done = with_node("list")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "NAME           ID              SIZE      MODIFIED\n"
        "demo:latest    ab12ab12ab12    8.2 MB    3 days ago\n"
        "Qwen3:8b[2J    ab12ab12ab12    5.2 GB    Never\n"
    )


def test_list_can_be_narrowed_by_a_prefix_in_any_case(with_node: Command, node: ScriptedNode) -> None:
    node.answers["GET /api/tags"] = tags()
    assert [line.split()[0] for line in with_node("ls", "qwen").stdout.splitlines()] == ["NAME", "Qwen3:8b[2J"]


def test_ps_says_where_a_model_lies_and_until_when(with_node: Command, node: ScriptedNode) -> None:
    def loaded(name: str, vram: int, expires_at: str) -> dict[str, object]:
        sizes: dict[str, object] = {"size": 4_000_000_000, "size_vram": vram, "context_length": 4096}
        return sizes | {"name": name, "digest": DIGEST, "expires_at": expires_at}

    node.answers["GET /api/ps"] = Reply(
        {
            "models": [
                loaded("cpu:latest", 0, ago(minutes=-4.5)),
                loaded("gpu:latest", 4_000_000_000, "2318-01-01T00:00:00Z"),
                loaded("both:latest", 3_000_000_000, ago(seconds=9)),
            ]
        }
    )
    assert with_node("ps").stdout == (
        "NAME           ID              SIZE    PROCESSOR          CONTEXT    UNTIL\n"
        "cpu:latest     ab12ab12ab12    4 GB    100% CPU           4096       4 minutes from now\n"
        "gpu:latest     ab12ab12ab12    4 GB    100% GPU           4096       Forever\n"
        "both:latest    ab12ab12ab12    4 GB    25%/75% CPU/GPU    4096       Stopping...\n"
    )


SHOWN = {
    "license": "MIT\n\nPermission is\nhereby",
    "modelfile": "FROM /x\n",
    "parameters": 'stop                           "<|im_end|>"\ntemperature                    0.5',
    "template": "{{ .Prompt }}",
    "system": "Be kind.",
    "details": {"family": "llama", "parameter_size": "4.1M", "quantization_level": "Q8_0"},
    "model_info": {
        "general.architecture": "llama",
        "llama.context_length": 2048,
        "llama.embedding_length": 256,
        "tokenizer.ggml.tokens": ["a", "bb", "ccc", "dddd", "eeeee"],
    },
    "tensors": [{"name": "output.weight", "type": "Q8_0", "shape": [256, 1024]}],
    "capabilities": ["completion", "thinking"],
}


def test_show_describes_a_model_in_tables(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/show"] = Reply(SHOWN)
    done = with_node("show", "demo")
    assert done.returncode == 0
    assert done.stdout == (
        "  Model\n"
        "    architecture        llama\n"
        "    parameters          4.1M\n"
        "    context length      2048\n"
        "    embedding length    256\n"
        "    quantization        Q8_0\n\n"
        "  Capabilities\n    completion\n    thinking\n\n"
        '  Parameters\n    stop           "<|im_end|>"\n    temperature    0.5\n\n'
        "  System\n    Be kind.\n\n"
        "  License\n    MIT\n    Permission is\n    ...\n\n"
    )


def test_show_verbose_adds_metadata_and_tensors(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/show"] = Reply(SHOWN)
    shown = with_node("show", "-v", "demo").stdout
    assert "    tokenizer.ggml.tokens     [a bb ...+3 more]\n" in shown
    assert "  Tensors\n    output.weight    Q8_0    [256 1024]\n" in shown
    assert node.asked_of("POST /api/show") == [{"model": "demo", "verbose": True}]


@pytest.mark.parametrize(
    ("part", "printed"),
    [
        ("modelfile", "FROM /x\n\n"),
        ("template", "{{ .Prompt }}"),
        ("system", "Be kind."),
        ("license", SHOWN["license"]),
    ],
)
def test_show_prints_one_part_as_it_is(with_node: Command, node: ScriptedNode, part: str, printed: str) -> None:
    node.answers["POST /api/show"] = Reply(SHOWN)
    assert with_node("show", "demo", f"--{part}").stdout.rstrip("\n") == printed.rstrip("\n")


def test_show_takes_one_part_at_a_time(with_node: Command) -> None:
    done = with_node("show", "demo", "--system", "--license")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: argument --license: not allowed with argument --system\n")


def test_cp_and_rm_say_what_they_did(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/copy"] = node.answers["DELETE /api/delete"] = Reply()
    node.answers["POST /api/generate"] = Reply({"done": True})
    assert with_node("cp", "demo", "mine").stdout == "copied 'demo' to 'mine'\n"
    assert with_node("rm", "a", "b").stdout == "deleted 'a'\ndeleted 'b'\n"
    assert node.asked == [
        ("POST /api/copy", {"source": "demo", "destination": "mine"}),
        ("POST /api/generate", {"model": "a", "keep_alive": 0, "stream": False}),
        ("DELETE /api/delete", {"model": "a"}),
        ("POST /api/generate", {"model": "b", "keep_alive": 0, "stream": False}),
        ("DELETE /api/delete", {"model": "b"}),
    ]


def test_rm_ends_with_the_first_model_that_is_not_there(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/generate"] = Reply({"error": "model 'x' not found"}, 404)
    node.answers["DELETE /api/delete"] = Reply({"error": "model 'x' not found"}, 404)
    done = with_node("rm", "x", "y")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Error: model 'x' not found\n")
    assert len(node.asked_of("DELETE /api/delete")) == 1


def test_stop_unloads_and_names_a_model_it_cannot_find(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/generate"] = Reply({"done": True})
    assert with_node("stop", "demo").returncode == 0
    node.answers["POST /api/generate"] = Reply({"error": "model 'x' not found"}, 404)
    done = with_node("stop", "x")
    assert (done.returncode, done.stderr) == (1, 'Error: couldn\'t find model "x" to stop\n')


def test_a_node_that_is_not_there_is_one_line_and_the_way_out(ayni: Command) -> None:
    done = ayni("list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: could not connect to a node at http://127.0.0.1:1: connection refused\n"
        "Start one on this machine with: ayni serve\n"
    )


def test_an_answer_that_is_no_nodes_is_no_traceback(with_node: Command, node: ScriptedNode) -> None:
    for body in (b"<html>\x1b[2Jhello", b"[1, 2]", b"{" * 100_000):
        node.answers["GET /api/tags"] = Reply(body)
        done = with_node("list")
        assert done.returncode == 1
        assert done.stderr.startswith("Error: the answer is not a node's: ")
        assert "\x1b" not in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_an_error_without_words_names_its_status(with_node: Command, node: ScriptedNode) -> None:
    node.answers["GET /api/tags"] = Reply(status=502)
    assert with_node("list").stderr == "Error: the node answered 502 Bad Gateway\n"


def test_a_bad_setting_is_one_line(ayni: Command) -> None:
    ayni.environ["AYNI_HOST"] = "127.0.0.1:99999"
    for verb in (("list",), ("serve",), ("run", "demo", "hi"), ("verify",)):
        done = ayni(*verb)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: bad setting AYNI_HOST = '127.0.0.1:99999': must be an address")


def test_serve_takes_every_setting_as_a_flag(ayni: Command) -> None:
    assert "--num-parallel VALUE" in ayni("serve", "--help").stdout
    done = ayni("serve", "--num-parallel", "many")
    assert (done.returncode, done.stderr) == (
        1,
        "Error: bad setting --num-parallel = 'many': must be a number from 0 to 256\n",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(with_node: Command, node: ScriptedNode) -> None:
    node.answers["GET /api/tags"] = tags()
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "list"],
            env=with_node.environ,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=20,
        )
    assert (done.returncode, done.stderr) == (1, b"Error: No space left on device\n")


def test_version_names_both_sides(with_node: Command, node: ScriptedNode) -> None:
    for words in (("version",), ("--version",), ("-v",)):
        done = with_node(*words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ayni version is 0.1.0\n", "")
    node.answers["GET /api/version"] = Reply({"version": "0.13.0", "ayni": "0.2.0"})
    assert with_node("version").stderr == "Warning: the node's version is 0.2.0\n"
    node.answers["GET /api/version"] = Reply({"version": "0.13.0"})
    assert with_node("version").stderr.endswith("is not Ayni\n")


def test_version_needs_no_node(ayni: Command) -> None:
    done = ayni("version")
    assert (done.returncode, done.stdout) == (0, "ayni version is 0.1.0\n")
    assert done.stderr == "Warning: no node answers at http://127.0.0.1:1\n"


def test_help_names_every_verb(ayni: Command) -> None:
    overview = ayni("help").stdout
    assert overview == ayni().stdout == ayni("--help").stdout
    for verb in VERBS:
        assert f"\n  {verb.name} " in overview


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_explains_itself(verb: Verb, ayni: Command) -> None:
    done = ayni(*verb.name.split(), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: ayni {verb.name}")


def test_mistakes_on_the_command_line_exit_with_1_like_ollama(ayni: Command) -> None:
    for words, said in (
        (("frobnicate",), 'Error: unknown command "frobnicate" for "ayni"\nSee: ayni --help\n'),
        (("show",), "Error: the following arguments are required: MODEL\nSee: ayni show --help\n"),
        (("run",), "Error: the following arguments are required: MODEL\nSee: ayni run --help\n"),
        (("list", "--frob"), "Error: unrecognized arguments: --frob\nSee: ayni list --help\n"),
        (("run", "demo", "--think=hard"), "Error: invalid value for --think: 'hard'"),
        (("run", "demo", "--keepalive", "soon"), "Error: invalid duration 'soon'"),
        (("run", "demo", "--format", "xml"), "Error: invalid value for --format: 'xml'"),
    ):
        done = ayni(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(said)
