from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from node.identity import (
    AlreadyMember,
    CertificateRefused,
    Identity,
    IdentityStore,
    InvalidClusterName,
    NoCluster,
    NodeNames,
    TokenRefused,
    UnusableFile,
    issue_token,
    read_private,
    write_private,
)

NOW_S = 1_800_000_000.0


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def test_a_created_cluster_is_there_after_a_restart(world: Any, first: Identity) -> None:
    again = IdentityStore(world.folder / "home" / "first").open(now_s=NOW_S)
    assert (again.cluster_id, again.node_id, again.cluster_name, again.node_name) == (
        first.cluster_id,
        first.node_id,
        "home",
        "first",
    )
    assert again.certificate == first.certificate
    assert again.root is not None


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_every_file_is_readable_by_its_owner_alone_whatever_the_umask(world: Any, umask: int) -> None:
    before = os.umask(umask)
    try:
        member = world.create()
        world.join(member)
        world.invite(member)
        member.ledger.revoke_token(member.need_root(), "t", now_s=NOW_S)
        member.renew(NodeNames(), now_s=NOW_S)
    finally:
        os.umask(before)
    for node in ("first", "second"):
        folder = world.folder / "home" / node / "identity"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        found = modes(folder)
        assert {"ca.pem", "root.key", "identity.key", "tls.key", "tls.crt", "ledger", "name"} <= found.keys()
        assert set(found.values()) == {0o600}


def test_a_secret_is_never_open_to_others_not_even_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    sync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    before = os.umask(0)
    try:
        write_private(tmp_path / "secret", b"x")
    finally:
        os.umask(before)
    assert seen[0] == 0o600


def test_a_secret_that_others_can_read_is_not_used(world: Any, first: Identity) -> None:
    key = world.folder / "home" / "first" / "identity" / "root.key"
    key.chmod(0o640)
    with pytest.raises(
        UnusableFile, match=r"root\.key: other users can read this secret \(mode 0640\); run `chmod 600`"
    ):
        IdentityStore(world.folder / "home" / "first").open(now_s=NOW_S)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    write_private(path, b"old")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_private(path, b"new")
    assert read_private(path) == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("name", ["ca.pem", "root.key", "identity.key", "tls.key", "tls.crt", "ledger"])
@pytest.mark.parametrize("damage", [b"", b"\xff garbage \x00"])
def test_a_damaged_file_is_named_and_not_quoted(world: Any, first: Identity, name: str, damage: bytes) -> None:
    path = world.folder / "home" / "first" / "identity" / name
    path.write_bytes(damage)
    with pytest.raises(UnusableFile) as error:
        IdentityStore(world.folder / "home" / "first").open(now_s=NOW_S)
    assert error.value.path == path
    assert "garbage" not in str(error.value)


@pytest.mark.parametrize("name", ["ca.pem", "identity.key", "tls.key", "tls.crt", "name"])
def test_a_missing_file_is_named(world: Any, first: Identity, name: str) -> None:
    path = world.folder / "home" / "first" / "identity" / name
    path.unlink()
    with pytest.raises(UnusableFile) as error:
        IdentityStore(world.folder / "home" / "first").open(now_s=NOW_S)
    assert error.value.path == path


@pytest.mark.parametrize(("name", "fault"), [("root.key", "another cluster"), ("tls.key", "another key")])
def test_files_of_two_clusters_do_not_mix(world: Any, first: Identity, name: str, fault: str) -> None:
    world.create("elsewhere")
    folder = world.folder / "home" / "first" / "identity"
    (world.folder / "elsewhere" / "first" / "identity" / name).replace(folder / name)
    with pytest.raises(UnusableFile, match=fault):
        IdentityStore(folder.parent).open(now_s=NOW_S)


def test_a_machine_belongs_to_one_cluster_at_a_time(world: Any, first: Identity) -> None:
    with pytest.raises(AlreadyMember, match="belongs to cluster 'home' already"):
        IdentityStore(world.folder / "home" / "first").create_cluster(
            "other", node_name="x", names=NodeNames(), now_s=NOW_S
        )


def test_a_crash_while_joining_leaves_no_membership_and_no_secrets_for_long(world: Any, tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "node")
    unfinished = tmp_path / "node" / ".identity.new"
    unfinished.mkdir(parents=True)
    (unfinished / "root.key").write_bytes(b"half")
    with pytest.raises(NoCluster):
        store.open(now_s=NOW_S)
    store.create_cluster("home", node_name="x", names=NodeNames(), now_s=NOW_S)
    assert [path.name for path in (tmp_path / "node").iterdir()] == ["identity"]


def test_what_a_killed_daemon_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "node")
    store.create_cluster("home", node_name="x", names=NodeNames(), now_s=NOW_S)
    whole = set((tmp_path / "node").rglob("*"))
    (tmp_path / "node" / ".members.json.0123abcd").write_bytes(b"half")
    (tmp_path / "node" / "identity" / ".tls.crt.89efcdab").write_bytes(b"half")
    (tmp_path / "node" / ".identity.76543210").mkdir()
    (tmp_path / "node" / ".identity.76543210" / "root.key").write_bytes(b"half")
    store.clear_away()
    assert set((tmp_path / "node").rglob("*")) == whole
    assert store.open(now_s=NOW_S).cluster_name == "home"


def test_forgetting_leaves_nothing(world: Any, first: Identity) -> None:
    store = IdentityStore(world.folder / "home" / "first")
    store.forget()
    assert list((world.folder / "home" / "first").iterdir()) == []
    assert not store.exists
    store.forget()
    with pytest.raises(NoCluster):
        store.open(now_s=NOW_S)


def test_a_bad_name_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidClusterName):
        IdentityStore(tmp_path / "node").create_cluster("a.b", node_name="x", names=NodeNames(), now_s=NOW_S)
    assert not (tmp_path / "node").exists()


def test_renaming_makes_a_new_certificate_due_and_keeps_members(world: Any, first: Identity, second: Identity) -> None:
    first.ledger.name_cluster(first.need_root(), "office", now_s=NOW_S + 1)
    second.ledger.merge(first.ledger.records(), now_s=NOW_S + 1)
    assert second.cluster_name == "office"
    names = NodeNames.of(("198.18.77.12",), ("second.local",))
    assert second.renewal_due(names, now_s=NOW_S + 1) == "names changed"
    second.renew(names, now_s=NOW_S + 1)
    assert second.renewal_due(names, now_s=NOW_S + 1) is None
    assert second.cluster_id == first.cluster_id


def test_a_removed_machine_knows_it_and_does_not_certify_itself_anew(first: Identity, second: Identity) -> None:
    first.remove_node(second.node_id, now_s=NOW_S)
    second.ledger.merge(first.ledger.records(), now_s=NOW_S)
    assert second.removed
    with pytest.raises(CertificateRefused, match="removed"):
        second.renew(NodeNames(), now_s=NOW_S)


def test_a_token_from_one_member_counts_on_another_and_its_revocation_too(first: Identity, second: Identity) -> None:
    token = issue_token(second.need_root(), "phone", scopes=["infer"], lifetime_s=10**10, now_s=1)
    assert first.token_verifier().verify(token.text) == token.grant
    second.ledger.revoke_token(second.need_root(), token.grant.token_id, now_s=NOW_S)
    verifier = first.token_verifier()
    assert verifier.verify(token.text) == token.grant
    first.ledger.merge(second.ledger.records(), now_s=NOW_S)
    with pytest.raises(TokenRefused, match="revoked"):
        verifier.verify(token.text)
