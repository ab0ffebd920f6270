"""Real handshakes, at the real time: what the library refuses, and what is left to us."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from node.identity import (
    CertificateRefused,
    Identity,
    NodeId,
    NodeKeys,
    NodeNames,
    check_peer,
    handshake_fault,
    issue_certificate,
    join_context,
    peer_context,
    peer_node_id,
    server_context,
    unchecked_context,
)
from node.identity.certificates import NODE_LIFETIME_S
from node.identity.files import write_private
from node.identity.keys import private_pem

Shake = Callable[..., tuple[ssl.SSLObject, ssl.SSLObject]]


def nobody(_: NodeId) -> bool:
    return False


@pytest.fixture
def member(world: Any) -> Identity:
    identity: Identity = world.create(now_s=time.time())
    return identity


@pytest.fixture
def peer(world: Any, member: Identity) -> Identity:
    identity: Identity = world.join(member, now_s=time.time())
    return identity


def certified(
    root_of: Identity, folder: Path, *, now_s: float | None = None, key: NodeKeys | None = None
) -> tuple[Path, Path]:
    """A node certificate that `root_of` issued at another time, and its key, as files."""
    keys = key or NodeKeys.generate()
    certificate = issue_certificate(
        root_of.need_root(),
        node=keys.node_id,
        tls_key=keys.tls.public_key(),
        names=NodeNames(),
        cluster_name="home",
        now_s=time.time() if now_s is None else now_s,
    )
    write_private(folder / "x.crt", certificate.public_bytes(serialization.Encoding.PEM))
    write_private(folder / "x.key", private_pem(keys.tls))
    return folder / "x.crt", folder / "x.key"


def test_members_know_each_other(member: Identity, peer: Identity, shake: Shake) -> None:
    server, client = shake(member.server_context(), peer.peer_context())
    assert peer_node_id(server, nobody) == peer.node_id
    assert check_peer(client, member.node_id, nobody) == member.node_id
    assert server.version() == "TLSv1.3"


def test_a_client_without_certificate_is_served_as_nobody(member: Identity, shake: Shake) -> None:
    """The standard settings of any client that was given ca.pem, under each of the node's names."""
    for hostname in ("home.local", "first.local", "localhost", "198.18.77.11", "fd00::11", "127.0.0.1"):
        client = ssl.create_default_context(cadata=member.anchor.ca_pem.decode())
        server, _ = shake(member.server_context(), client, hostname=hostname)
        assert peer_node_id(server, nobody) is None
        with pytest.raises(CertificateRefused, match="no node certificate"):
            check_peer(server, None, nobody)


def test_a_name_that_is_not_certified_is_refused_by_clients(member: Identity, shake: Shake) -> None:
    client = ssl.create_default_context(cadata=member.anchor.ca_pem.decode())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(member.server_context(), client, hostname="bank.example")


def test_trusting_ca_pem_does_not_trust_it_with_other_names(
    world: Any, member: Identity, shake: Shake, tmp_path: Path
) -> None:
    """Even with the stolen root key nobody can pass for a web site before a browser that trusts ca.pem."""
    from datetime import UTC, datetime, timedelta

    from cryptography.hazmat.primitives import hashes

    keys, root = NodeKeys.generate(), member.need_root()
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(root.anchor.authority.subject)
        .public_key(keys.tls.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), critical=True)
        .sign(root.authority_key, hashes.SHA256())
    )
    write_private(tmp_path / "x.crt", certificate.public_bytes(serialization.Encoding.PEM))
    write_private(tmp_path / "x.key", private_pem(keys.tls))
    client = ssl.create_default_context(cadata=member.anchor.ca_pem.decode())
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        shake(server_context(member.anchor, tmp_path / "x.crt", tmp_path / "x.key"), client, hostname="bank.example")


def test_a_certificate_of_another_cluster_is_refused_both_ways(world: Any, member: Identity, shake: Shake) -> None:
    stranger = world.create("elsewhere", now_s=time.time())
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        shake(stranger.server_context(), member.peer_context())
    assert handshake_fault(refused.value) == "another cluster"
    # The stranger knows our public ca.pem and believes us; we do not believe the stranger.
    liar = peer_context(member.anchor, stranger.certificate_path, stranger.key_path)
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        shake(member.server_context(), liar)
    assert handshake_fault(refused.value) == "another cluster"


def test_a_certificate_with_another_key_can_not_even_be_used(member: Identity, tmp_path: Path) -> None:
    write_private(tmp_path / "other.key", private_pem(NodeKeys.generate().tls))
    with pytest.raises(ssl.SSLError):
        peer_context(member.anchor, member.certificate_path, tmp_path / "other.key")


def test_expired_certificates_and_wrong_clocks_are_told_apart_from_strangers(
    member: Identity, tmp_path: Path, shake: Shake
) -> None:
    now_s = time.time()
    for issued_s, fault in ((now_s - NODE_LIFETIME_S - 60, "expired"), (now_s + 2 * 86400, "not yet valid")):
        certificate, key = certified(member, tmp_path, now_s=issued_s)
        with pytest.raises(ssl.SSLCertVerificationError) as refused:
            shake(member.server_context(), peer_context(member.anchor, certificate, key))
        assert handshake_fault(refused.value) == fault


def test_a_removed_member_is_refused_on_a_connection_that_is_open(
    member: Identity, peer: Identity, shake: Shake
) -> None:
    server, _ = shake(member.server_context(), peer.peer_context())
    assert peer_node_id(server, member.ledger.is_node_revoked) == peer.node_id
    member.remove_node(peer.node_id, now_s=time.time())
    with pytest.raises(CertificateRefused) as refused:
        peer_node_id(server, member.ledger.is_node_revoked)
    assert refused.value.reason == "revoked"


def test_a_member_does_not_pass_for_another_one(member: Identity, peer: Identity, shake: Shake) -> None:
    _, client = shake(member.server_context(), peer.peer_context())
    with pytest.raises(CertificateRefused) as refused:
        check_peer(client, NodeId("0" * 16), nobody)
    assert refused.value.reason == "another node"


def test_older_tls_is_refused(member: Identity, shake: Shake) -> None:
    old = ssl.create_default_context(cadata=member.anchor.ca_pem.decode())
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(member.server_context(), old, hostname="home.local")


def test_sessions_are_not_resumed(member: Identity, peer: Identity, shake: Shake) -> None:
    _, client = shake(member.server_context(), peer.peer_context())
    assert client.session is None or not client.session.has_ticket


def test_a_joining_machine_checks_the_cluster_but_not_the_time(
    world: Any, member: Identity, tmp_path: Path, shake: Shake
) -> None:
    certificate, key = certified(member, tmp_path, now_s=time.time() - 40 * 86400)
    _, client = shake(server_context(member.anchor, certificate, key), join_context(member.anchor))
    assert client.getpeercert()
    stranger = world.create("elsewhere", now_s=time.time())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(stranger.server_context(), join_context(member.anchor))
    assert shake(stranger.server_context(), unchecked_context())


def test_a_renewed_certificate_serves_new_connections_of_the_same_context(
    member: Identity, peer: Identity, shake: Shake
) -> None:
    context = member.server_context()
    before = shake(context, peer.peer_context())[1].getpeercert(binary_form=True)
    member.renew(NodeNames.of(("198.18.77.99",)), now_s=time.time())
    context.load_cert_chain(member.certificate_path, member.key_path)
    _, client = shake(context, peer.peer_context())
    assert client.getpeercert(binary_form=True) != before
    assert check_peer(client, member.node_id, nobody) == member.node_id
