from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from cli.errors import UsageError
from cli.text import parse_lifetime
from tests.cli.scripted_node import Command, Reply, ScriptedNode

LINE = "ayni-join-1.k5hvbm8xMjM0"
STATUS: dict[str, object] = {
    "member": True,
    "active": True,
    "name": "home",
    "id": "aaaabbbbccccdddd",
    "node": "0123456789abcdef",
    "node_name": "kitchen",
    "state": "up",
    "addresses": ["10.0.0.5:11499"],
    "head": "kitchen",
    "keeper": True,
    "ca": "/var/lib/ayni/cluster/identity/ca.pem",
    "nodes": 2,
    "nodes_up": 1,
    "certificate_expires_at": "2031-05-06T12:00:00Z",
    "discovery": {"state": "on", "reason": ""},
    "ray": {"state": "waiting", "role": "head", "generation": 3, "reason": "a port is taken"},
}
NODES = Reply(
    {
        "nodes": [
            {
                "id": "0123456789abcdef",
                "name": "kitchen",
                "state": "up",
                "head": True,
                "me": True,
                "version": "0.1.0",
                "address": "10.0.0.5:11435",
                "devices": [{"name": "RTX 4090", "total_bytes": 24 * 10**9, "free_bytes": 20 * 10**9}],
                "ram_total_bytes": 64 * 10**9,
                "ram_free_bytes": 32 * 10**9,
                "resident": [{"name": "demo:latest"}, {"name": "qwen3:8b\x1b[2J"}],
            },
            {"id": "fedcba9876543210", "name": "laptop", "state": "lost", "devices": [], "resident": []},
        ]
    }
)


@pytest.fixture(autouse=True)
def cluster(node: ScriptedNode) -> None:
    node.answers["GET /api/cluster"] = Reply(STATUS)
    node.answers["GET /api/cluster/nodes"] = NODES


def test_create_names_the_cluster_and_says_what_comes_next(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/cluster"] = Reply({"name": "home"})
    done = with_node("cluster", "create", "home")
    assert (done.returncode, done.stdout) == (0, "created cluster 'home'\n")
    assert "ayni cluster invite" in done.stderr
    assert node.asked_of("POST /api/cluster") == [{"name": "home"}]


def test_an_invitation_stands_alone_on_stdout(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/cluster/invitations"] = Reply({"invitation": LINE, "expires_at": "2031-01-01T12:00:00Z"})
    plain, longer = with_node("cluster", "invite"), with_node("cluster", "invite", "--expires", "1h30m", "--uses", "3")
    assert plain.stdout == longer.stdout == f"{LINE}\n"
    assert "can join once until 2031-01-01 " in plain.stderr
    assert "can join 3 times until 2031-01-01 " in longer.stderr
    assert with_node("cluster", "invite", "--plain").stdout == f"{LINE}\n"
    asked = node.asked_of("POST /api/cluster/invitations")
    assert asked == [{}, {"expires_s": 5400, "uses": 3}, {"keeper": False}]


@pytest.mark.parametrize(
    ("words", "stdin"),
    [((LINE,), b""), ((LINE[:14], LINE[14:]), b""), (("-",), f"{LINE}\n".encode()), ((), f" {LINE}\r\n".encode())],
)
def test_join_takes_the_line_as_it_comes(
    with_node: Command, node: ScriptedNode, words: tuple[str, ...], stdin: bytes
) -> None:
    node.answers["POST /api/cluster/join"] = Reply({"name": "home"})
    done = with_node("join", *words, stdin=stdin)
    assert (done.returncode, done.stdout) == (0, "joined cluster 'home'\n")
    assert node.asked_of("POST /api/cluster/join") == [{"invitation": LINE}]


def test_join_starts_nothing_for_what_is_no_invitation(ayni: Command) -> None:
    for words in (("hello",), ("-",), ()):
        done = ayni("join", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: this is no invitation\n")
    assert not (ayni.home / ".ayni").exists()


def test_join_says_why_it_was_refused_and_not_with_what(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/cluster/join"] = Reply({"error": "the invitation has expired"}, 403)
    done = with_node("join", LINE)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Error: the invitation has expired\n")


def test_nodes_shows_what_each_machine_has_and_does(with_node: Command) -> None:
    lines = with_node("nodes").stdout.splitlines()
    assert lines[0].split("  ")[0] == "NAME"
    assert [cell.strip() for cell in lines[1].split("   ") if cell.strip()] == [
        "kitchen",
        "up",
        "head, this machine",
        "RTX 4090 20 GB of 24 GB free",
        "32 GB of 64 GB",
        "demo:latest, qwen3:8b[2J",
        "0.1.0",
        "10.0.0.5:11435",
        "0123456789abcdef",
    ]
    assert lines[2].split() == ["laptop", "lost", "-", "-", "-", "-", "fedcba9876543210"]


def test_status_sums_up(with_node: Command) -> None:
    assert with_node("cluster", "status").stdout == (
        "cluster         home (aaaabbbbccccdddd)\n"
        "this machine    kitchen (0123456789abcdef), up\n"
        "reached at      10.0.0.5:11499\n"
        "root key        here too\n"
        "certificate     until 2031-05-06, renewed by itself\n"
        "machines        1 of 2 up\n"
        "head            kitchen\n"
        "discovery       on\n"
        "ray             waiting, generation 3, a port is taken\n"
        "clients         https://home.local:11499\n"
    )


def test_clients_get_an_address_where_no_name_is_told(with_node: Command, node: ScriptedNode) -> None:
    node.answers["GET /api/cluster"] = Reply(STATUS | {"discovery": {"state": "off"}})
    assert with_node("cluster", "status").stdout.endswith("clients         https://10.0.0.5:11499\n")


def test_a_machine_in_no_cluster_is_told_how_to_be_in_one(with_node: Command, node: ScriptedNode) -> None:
    node.answers["GET /api/cluster"] = Reply({"member": False, "active": False, "reason": ""})
    done = with_node("cluster", "status")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: this machine belongs to no cluster\nSee: ayni cluster create, ayni join\n"
    node.answers["GET /api/cluster"] = Reply({"member": False, "reason": "this machine was removed from the cluster"})
    assert with_node("cluster", "status").stderr.startswith("Error: this machine was removed from the cluster\nSee: ")
    node.answers["GET /api/cluster"] = Reply({"member": True, "active": False, "reason": "the LAN port is taken"})
    assert with_node("cluster", "status").stderr == "Error: not in the cluster yet: the LAN port is taken\n"


def test_members_come_and_go_by_name(with_node: Command, node: ScriptedNode) -> None:
    node.answers["DELETE /api/cluster/nodes/anna%27s%20pc%2F2"] = Reply({})
    node.answers["PATCH /api/cluster"] = Reply({"name": "office"})
    for left, hint in (({}, ""), ({"told": True}, ""), ({"told": False}, "ayni cluster remove NAME\n")):
        node.answers["DELETE /api/cluster"] = Reply(left)
        done = with_node("cluster", "leave")
        assert done.stdout == "left the cluster; this machine goes on alone\n"
        assert done.stderr.endswith(hint) if hint else not done.stderr
    assert with_node("cluster", "remove", "anna's pc/2").stdout.startswith("removed 'anna's pc/2': ")
    assert with_node("cluster", "rename", "office").stdout == "renamed the cluster to 'office'\n"
    assert node.asked_of("PATCH /api/cluster") == [{"name": "office"}]


def test_discover_says_of_each_machine_whether_and_why(with_node: Command, node: ScriptedNode) -> None:
    seen = {"name": "attic", "cluster": "home", "address": "10.0.0.9:11435", "version": "0.1.0", "joinable": True}
    node.answers["GET /api/cluster/discover"] = Reply({"seen": [seen | {"reason": "run `ayni cluster invite` there"}]})
    done = with_node("discover")
    assert done.stdout == (
        "NAME     CLUSTER    ADDRESS           VERSION    JOINABLE    WHY\n"
        "attic    home       10.0.0.9:11435    0.1.0      yes         run `ayni cluster invite` there\n"
    )
    node.answers["GET /api/cluster/discover"] = Reply({"seen": []})
    assert "No machine announces itself." in with_node("discover").stderr
    node.answers["GET /api/cluster/discover"] = Reply({"seen": [], "reason": "no network interface is up"})
    said = with_node("discover").stderr
    assert "This machine can't look: no network interface is up." in said
    assert "No machine" not in said


def test_a_token_stands_alone_on_stdout_with_its_use_beside_it(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/cluster/tokens"] = Reply({"token": "eyJ.x.y", "id": "0011"})
    words = "--scope infer,models --scope admin --models llama*,demo --rpm 60 --tpm 90000 --max-parallel 2 --expires 1w"
    done = with_node("token", "create", "anna", *words.split(), "--weight", "2", "--priority", "-4")
    assert (done.returncode, done.stdout) == (0, "eyJ.x.y\n")
    assert "OPENAI_BASE_URL=https://home.local:11499/v1" in done.stderr
    assert "OLLAMA_HOST=https://home.local:11499" in done.stderr
    assert "keeps it in /var/lib/ayni/cluster/identity/ca.pem.\n" in done.stderr
    assert "eyJ" not in done.stderr
    with_node("token", "create", "ci")
    assert node.asked_of("POST /api/cluster/tokens") == [
        {
            "name": "anna",
            "scopes": ["infer", "models", "admin"],
            "models": ["llama*", "demo"],
            "rpm": 60,
            "tpm": 90000,
            "max_parallel": 2,
            "expires_s": 604800,
            "weight": 2.0,
            "priority": -4,
        },
        {"name": "ci", "scopes": ["infer"], "models": [], "expires_s": 30 * 86400},
    ]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["x", "--models", ""], "argument --models: must not be empty"),
        (["x", "--models", ","], "argument --models: must not be empty"),
        (["x", "--scope", ""], "argument --scope: must not be empty"),
        ([""], "argument NAME: must not be empty"),
        (["x", "--weight", "nan"], "argument --weight: must be a number above 0, at most 1000, not 'nan'"),
        (["x", "--weight=-1"], "argument --weight: must be a number above 0, at most 1000, not '-1'"),
        (["x", "--priority", "5"], "argument --priority: must be a whole number from -4 to 4, not '5'"),
    ],
)
def test_a_token_whose_bounds_are_mistyped_is_not_made(
    with_node: Command, node: ScriptedNode, words: list[str], complaint: str
) -> None:
    done = with_node("token", "create", *words)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert node.asked_of("POST /api/cluster/tokens") == []


def test_tokens_are_listed_with_what_they_allow(with_node: Command, node: ScriptedNode) -> None:
    later = (datetime.now(UTC) + timedelta(days=3, hours=1)).isoformat()
    tokens = [
        {"name": "anna", "id": "0011", "scopes": ["infer"], "models": ["llama*"], "rpm": 60, "expires_at": later},
        {"name": "ci", "id": "0022", "scopes": ["infer", "admin"], "models": [], "revoked": True}
        | {"weight": 2.5, "priority": -1, "max_parallel": 3},
    ]
    node.answers["GET /api/cluster/tokens"] = Reply({"tokens": tokens})
    node.answers["DELETE /api/cluster/tokens/anna"] = Reply({})
    assert with_node("token", "list").stdout == (
        "NAME    ID      SCOPES          MODELS    LIMITS                                EXPIRES\n"
        "anna    0011    infer           llama*    60 requests/min                       3 days from now\n"
        "ci      0022    infer, admin    all       3 at once, weight 2.5, priority -1    revoked\n"
    )
    assert with_node("token", "revoke", "anna").stdout == "revoked 'anna'\n"


def test_explain_prints_the_nodes_lines(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/cluster/explain"] = Reply({"lines": ["kitchen wins: it is alone", "  kitchen  2.0 ms\x1b"]})
    done = with_node("explain", "demo", "--prompt-tokens", "500", "--num-ctx", "4096")
    assert done.stdout == "kitchen wins: it is alone\n  kitchen  2.0 ms\n"
    assert node.asked_of("POST /api/cluster/explain") == [{"model": "demo", "prompt_tokens": 500, "num_ctx": 4096}]


def test_work_is_steered_by_drain_and_pin(with_node: Command, node: ScriptedNode) -> None:
    node.answers["POST /api/cluster/nodes/laptop/drain"] = Reply({})
    node.answers["POST /api/cluster/pins"] = Reply({"nodes": ["a", "b"]})
    node.answers["DELETE /api/cluster/pins/me%2Fqwen3%3A8b"] = Reply({})
    assert with_node("drain", "laptop").stdout.startswith("'laptop' takes no new work")
    for words in (("drain", "--undo"), ("undrain",)):
        assert with_node(*words, "laptop").stdout == "'laptop' takes work again\n"
    assert with_node("pin", "demo").stdout == "pinned 'demo' on a, b\n"
    assert with_node("pin", "demo", "--nodes", "a,b").stdout == "pinned 'demo' on a, b\n"
    for words in (("pin", "--remove"), ("unpin",)):
        assert with_node(*words, "me/qwen3:8b").stdout == "'me/qwen3:8b' is pinned no longer\n"
    assert node.asked_of("POST /api/cluster/nodes/laptop/drain") == [{"drain": True}, *[{"drain": False}] * 2]
    assert node.asked_of("POST /api/cluster/pins") == [{"model": "demo"}, {"model": "demo", "nodes": ["a", "b"]}]


@pytest.mark.parametrize(
    ("words", "route"),
    [
        ("nodes", "GET /api/cluster/nodes"),
        ("cluster status", "GET /api/cluster"),
        ("token list", "GET /api/cluster/tokens"),
        ("discover", "GET /api/cluster/discover"),
        ("explain demo", "POST /api/cluster/explain"),
        ("list", "GET /api/tags"),
        ("ps", "GET /api/ps"),
    ],
)
def test_every_list_comes_as_json_too(with_node: Command, node: ScriptedNode, words: str, route: str) -> None:
    answer = {"models": [{"name": "demo\x9b2J"}]}
    node.answers[route] = Reply(answer)
    done = with_node(*words.split(), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, answer), done.stderr
    assert done.stdout.isascii()


def test_only_the_models_asked_for_are_listed_as_json(with_node: Command, node: ScriptedNode) -> None:
    node.answers["GET /api/tags"] = Reply({"models": [{"name": "demo"}, {"name": "other"}]})
    assert json.loads(with_node("list", "DE", "--json").stdout) == {"models": [{"name": "demo"}]}


def test_ps_names_the_machine_where_there_are_several(with_node: Command, node: ScriptedNode) -> None:
    loaded = {"name": "demo:latest", "size": 10**9, "context_length": 4096, "digest": "ab12" * 16}
    node.answers["GET /api/ps"] = Reply({"models": [loaded | {"node": "kitchen"}, loaded]})
    header, first, second = with_node("ps").stdout.splitlines()
    assert header.split()[-1] == "NODE"
    assert (first.split()[-1], second.split()[-1]) == ("kitchen", "Never")


def test_mistakes_are_told_before_anything_is_asked(ayni: Command) -> None:
    for words, said in (
        ("cluster", ""),
        ("cluster frob", 'Error: unknown command "frob" for "ayni cluster"\nSee: ayni cluster --help\n'),
        ("token create x --scope root", "Error: no such scope: 'root' (there are infer, models, metrics, admin)\n"),
        ("token create x --expires soon", "Error: argument --expires: invalid duration 'soon'"),
        ("token create x --rpm 0", "Error: argument --rpm: must be a positive number, not '0'"),
        ("pin demo --nodes ,", "Error: argument --nodes: must not be empty"),
        ("pin demo --remove --nodes a", "Error: argument --nodes: not allowed with argument --remove"),
        ("demo-cluster --nodes 99", "Error: "),
    ):
        done = ayni(*words.split())
        assert done.returncode == (1 if said else 0)
        assert done.stderr.startswith(said)
    for words in (("token", "revoke"), ("drain",), ("cluster", "remove")):
        assert ": must not be empty" in ayni(*words, "").stderr
    assert "  cluster invite " in ayni("cluster", "--help").stdout
    assert ayni("help", "cluster", "invite").stdout == ayni("cluster", "invite", "--help").stdout


def test_lifetimes_are_read_in_all_their_forms() -> None:
    texts = {"15m": 900, "30d": 2592000, "1h30m": 5400, "90": 90, "2w": 1209600}
    assert {text: parse_lifetime(text) for text in texts} == texts
    for text in ("", "0", "-1h", "1.5h", "1y", "m", "1 d"):
        with pytest.raises(UsageError):
            parse_lifetime(text)
