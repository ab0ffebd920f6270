from __future__ import annotations

import base64
import contextlib
import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from node.identity import (
    CertificateRefused,
    ClusterRoot,
    Forged,
    InvalidClusterName,
    Malformed,
    NodeId,
    NodeKeys,
    NodeNames,
    TrustAnchor,
    check_certificate,
    issue_certificate,
    parse_cluster_name,
    parse_node_id,
)
from node.identity.certificates import BACKDATED_S, NODE_LIFETIME_S, RENEW_BEFORE_S, renewal_due
from node.identity.keys import new_tls_key, tls_public_bytes, tls_public_from

NOW_S = 1_800_000_000.0
NAMES = NodeNames.of(("198.18.77.11", "fd00::11"), ("first.local",))
KEYS = NodeKeys.generate()


def issue(root: ClusterRoot, names: NodeNames = NAMES, cluster_name: str = "home") -> x509.Certificate:
    return issue_certificate(
        root,
        node=KEYS.node_id,
        tls_key=KEYS.tls.public_key(),
        names=names,
        cluster_name=cluster_name,
        now_s=NOW_S,
    )


def names_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def reason(certificate: x509.Certificate, anchor: TrustAnchor, **wanted: object) -> str:
    with pytest.raises(CertificateRefused) as refused:
        check_certificate(certificate, anchor, **({"now_s": NOW_S} | wanted))  # type: ignore[arg-type]
    return refused.value.reason


def test_a_certificate_names_the_node_its_addresses_and_the_cluster(root: ClusterRoot) -> None:
    names = names_of(issue(root))
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"ayni:node:{KEYS.node_id}"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "home.local", "first.local"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(text) for text in ("127.0.0.1", "::1", "198.18.77.11", "fd00::11")
    ]


def test_names_that_machines_report_are_cleaned(root: ClusterRoot) -> None:
    names = NodeNames.of(
        ("fe80::1%eth0", "198.18.77.11", "198.18.77.11", "999.1.1.1", ""),
        ("Host.LOCAL.", "host.local", "a b", "*", "ü"),
    )
    assert names == NodeNames(("fe80::1", "198.18.77.11"), ("host.local",))


def test_no_host_name_outside_the_clusters_domains_is_certified(root: ClusterRoot) -> None:
    names = NodeNames.of((), ("bank.example", "x.office.example", "evil-local", "local"))
    assert names_of(issue(root, names)).get_values_for_type(x509.DNSName) == ["localhost", "home.local", "local"]
    office = ClusterRoot.create(now_s=NOW_S, domains=["office.example"])
    assert names_of(issue(office, names)).get_values_for_type(x509.DNSName) == [
        "localhost",
        "home.local",
        "x.office.example",
        "local",
    ]


def test_a_good_certificate_gives_the_node_id(root: ClusterRoot) -> None:
    checked = check_certificate(issue(root), root.anchor, now_s=NOW_S, node=KEYS.node_id, tls_key=KEYS.tls.public_key())
    assert checked == KEYS.node_id


def test_certificates_that_do_not_count(root: ClusterRoot, other_root: ClusterRoot) -> None:
    good = issue(root)
    assert reason(issue(other_root), root.anchor) == "another cluster"
    assert reason(good, root.anchor, now_s=NOW_S + NODE_LIFETIME_S + 1) == "expired"
    assert reason(good, root.anchor, now_s=NOW_S - BACKDATED_S - 1) == "not yet valid"
    assert reason(good, root.anchor, node=NodeId("0" * 16)) == "another node"
    assert reason(good, root.anchor, tls_key=new_tls_key().public_key()) == "another key"


def test_clocks_may_differ_by_an_hour_before_certificates_stop_working(root: ClusterRoot) -> None:
    assert check_certificate(issue(root), root.anchor, now_s=NOW_S - BACKDATED_S + 1) == KEYS.node_id


def _certificate(
    root: ClusterRoot, names: list[x509.GeneralName] | None, *, issuer: x509.Name | None = None
) -> x509.Certificate:
    now = datetime.fromtimestamp(NOW_S, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .issuer_name(issuer or root.anchor.authority.subject)
        .public_key(KEYS.tls.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(root.authority_key, hashes.SHA256())


def test_a_certificate_names_exactly_one_node(root: ClusterRoot) -> None:
    one, two = (x509.UniformResourceIdentifier(f"ayni:node:{digit * 16}") for digit in "12")
    for names in (
        None,
        [x509.DNSName("home.local")],
        [one, two],
        [x509.UniformResourceIdentifier("ayni:node:")],
        [x509.UniformResourceIdentifier("ayni:node:" + "A" * 16)],
        [x509.UniformResourceIdentifier("ayni:node:" + "1" * 17)],
    ):
        assert reason(_certificate(root, names), root.anchor) == "no node id"
    assert check_certificate(_certificate(root, [one]), root.anchor, now_s=NOW_S) == "1" * 16


def test_an_authority_that_no_root_vouches_for_is_refused(root: ClusterRoot, other_root: ClusterRoot) -> None:
    """An attacker's authority that copies our voucher: the signature is for another key."""
    ours = root.anchor.authority
    attacker = new_tls_key()
    copied = names_of(ours)
    now = datetime.fromtimestamp(NOW_S, UTC)

    def authority(names: x509.SubjectAlternativeName | None) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        builder = (
            x509.CertificateBuilder()
            .subject_name(ours.subject)
            .issuer_name(ours.subject)
            .public_key(attacker.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(attacker, hashes.SHA256()).public_bytes(Encoding.PEM)

    with pytest.raises(Forged):
        TrustAnchor.from_pem(authority(copied))
    with pytest.raises(Malformed):
        TrustAnchor.from_pem(authority(None))
    with pytest.raises(Malformed):
        TrustAnchor.from_pem(authority(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("ayni:root:a:b")])))
    with pytest.raises(Forged):
        TrustAnchor.from_pem(other_root.anchor.ca_pem, root_key=root.anchor.raw_root_key)
    assert (
        TrustAnchor.from_pem(root.anchor.ca_pem, root_key=root.anchor.raw_root_key).cluster_id == root.anchor.cluster_id
    )


@pytest.mark.parametrize(
    "pem", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"x" * 20000]
)
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(Malformed):
        TrustAnchor.from_pem(pem)


def with_one_byte_changed(content: bytes) -> Iterator[bytes]:
    """Every byte, made a few others: types, lengths, versions, names of algorithms."""
    for at, byte in enumerate(content):
        for other in {0, 1, 2, 14, 0x30, 0x80, 0xA3, 0xFF, byte ^ 1} - {byte}:
            yield content[:at] + bytes([other]) + content[at + 1 :]


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_whatever_is_wrong_with_a_cluster_certificate_it_is_refused_in_one_way(root: ClusterRoot) -> None:
    for der in with_one_byte_changed(root.anchor.authority.public_bytes(serialization.Encoding.DER)):
        pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
        with contextlib.suppress(Malformed, Forged):  # one may be another spelling of the same signature
            assert TrustAnchor.from_pem(pem).cluster_id == root.anchor.cluster_id


def test_whatever_is_wrong_with_a_key_it_is_refused_in_one_way() -> None:
    for der in with_one_byte_changed(tls_public_bytes(KEYS.tls.public_key())):
        with contextlib.suppress(Malformed):  # some are the same key, in another spelling or of another sign
            tls_public_from(der)


def test_a_root_survives_being_written_and_mixed_parts_are_refused(root: ClusterRoot, other_root: ClusterRoot) -> None:
    copy = ClusterRoot.from_bytes(root.to_bytes())
    assert copy.anchor.cluster_id == root.anchor.cluster_id
    assert check_certificate(issue(copy), root.anchor, now_s=NOW_S) == KEYS.node_id
    mixed = ClusterRoot(root.anchor, root.signing_key, other_root.authority_key)
    with pytest.raises(Forged):
        ClusterRoot.from_bytes(mixed.to_bytes())
    for content in (b"", b"\xc1", root.to_bytes()[:-40]):
        with pytest.raises(Malformed):
            ClusterRoot.from_bytes(content)


def test_renewal_is_due_before_the_end_and_when_names_come_up_but_not_when_they_go(root: ClusterRoot) -> None:
    certificate = issue(root)

    def due(names: NodeNames = NAMES, name: str = "home", at_s: float = NOW_S) -> str | None:
        return renewal_due(certificate, root.anchor, names, name, now_s=at_s)

    end_s = NOW_S + NODE_LIFETIME_S
    assert due() is None
    assert due(at_s=end_s - RENEW_BEFORE_S - 1) is None
    assert due(at_s=end_s - RENEW_BEFORE_S + 1) == "expiring"
    assert due(at_s=end_s + 1) == "expiring"
    assert due(NodeNames.of(("198.18.77.99",))) == "names changed"
    assert due(NodeNames.of(("198.18.77.11",))) is None
    assert due(NodeNames.of(NAMES.addresses, ("new.local",))) == "names changed"
    assert due(NodeNames.of(NAMES.addresses, ("not.ours.example",))) is None
    assert due(name="office") == "names changed"


@pytest.mark.parametrize("name", ["home", "a", "Home-1 ", "x" * 32])
def test_cluster_names_are_dns_labels(name: str) -> None:
    assert parse_cluster_name(name) == name.strip().lower()


@pytest.mark.parametrize("name", ["", "-a", "a-", "a.b", "a b", "x" * 33, "ü", "a_b", "a\n-", "../x"])
def test_other_cluster_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidClusterName):
        parse_cluster_name(name)


def test_node_ids_are_hashes_of_keys() -> None:
    assert parse_node_id(KEYS.node_id) == KEYS.node_id
    assert KEYS.node_id != NodeKeys.generate().node_id
    for text in ("", "a" * 15, "A" * 16, "g" * 16, "a" * 16 + "\n"):
        with pytest.raises(Malformed):
            parse_node_id(text)
