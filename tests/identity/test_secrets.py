"""Go through a cluster's life with every log level on, and look for any secret in what could be seen."""

from __future__ import annotations

import base64
import logging
import traceback
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from node.identity import (
    Identity,
    IdentityError,
    IdentityStore,
    Invitation,
    TokenRefused,
    UnusableFile,
    accept_join_answer,
    issue_token,
)

NOW_S = 1_800_000_000.0


def raw_secrets(member: Identity) -> list[bytes]:
    raw = (serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    root = member.need_root()
    scalars = [key.private_numbers().private_value for key in (root.authority_key, member.keys.tls)]
    return [
        root.signing_key.private_bytes(*raw),
        member.keys.identity.private_bytes(*raw),
        *(scalar.to_bytes(32, "big") for scalar in scalars),
    ]


def spellings(secret: bytes) -> list[str]:
    """How a secret could be written, without the ends that base64 would mix with neighbours."""
    padded = (secret[offset:] for offset in range(3))
    return [secret.hex(), repr(secret)[2:-1], *(base64.b64encode(part).decode()[:24] for part in padded)]


def test_no_secret_is_seen_in_logs_reprs_errors_and_tracebacks(
    world: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    first = world.create()
    invitation = world.invite(first, uses=3)
    pending = world.ask(invitation)
    joined = first.answer_join(pending.request, software=world.software, now_s=NOW_S)
    membership = accept_join_answer(joined.answer, pending, now_s=NOW_S)
    second = IdentityStore(world.folder / "home" / "second").save(membership, node_name="second", now_s=NOW_S)
    token = issue_token(first.need_root(), "phone", scopes=["infer"], lifetime_s=60, now_s=NOW_S)
    seen: list[object] = [
        first, first.root, first.keys, first.anchor, first.ledger, first.invitations,
        first.invitations.open(now_s=NOW_S),
        invitation, pending, pending.request, joined, joined.answer, membership, second, second.keys, second.root,
        token, token.grant, first.token_verifier(),
    ]  # fmt: skip

    def failing() -> list[Any]:
        key = world.folder / "home" / "second" / "identity" / "tls.key"
        damaged = key.read_bytes()[:-60]
        return [
            lambda: first.answer_join(pending.request, software=world.software, now_s=NOW_S),
            lambda: first.answer_join(world.ask(invitation, now_s=1).request, software=world.software, now_s=NOW_S),
            lambda: Invitation.parse(invitation.text[:-9]),
            lambda: Invitation.parse(invitation.text[:-9] + "AAAAAAAAA"),
            lambda: world.create("other").token_verifier().verify(token.text),
            lambda: first.token_verifier().verify(token.text[:-3]),
            lambda: accept_join_answer(joined.answer, world.ask(invitation), now_s=NOW_S),
            lambda: _damage(key, damaged, world),
        ]

    for fail in failing():
        with pytest.raises(IdentityError) as error:
            fail()
        seen += [error.value, "".join(traceback.format_exception(error.value))]
    out, err = capfd.readouterr()
    text = "\n".join([*(f"{each!r} {each}" for each in seen), caplog.text, out, err])
    secrets = [*raw_secrets(first), *raw_secrets(second), invitation.secret]
    texts = [invitation.text[12:40], invitation.text[60:100], token.text.split(".")[1][:30], token.text[-40:]]
    leaked = [secret for secret in [*texts, *(form for each in secrets for form in spellings(each))] if secret in text]
    assert leaked == []


def _damage(key: Any, content: bytes, world: Any) -> None:
    key.write_bytes(content)
    IdentityStore(world.folder / "home" / "second").open(now_s=NOW_S)


def test_the_errors_of_this_package_hold_no_bytes(world: Any) -> None:
    """Fields travel between processes and into logs: they are words, numbers and paths."""
    first = world.create()
    with pytest.raises(TokenRefused) as refused:
        first.token_verifier().verify("x" * 100)
    assert refused.value.args == ("malformed",)
    (world.folder / "home" / "first" / "identity" / "root.key").write_bytes(b"secret")
    with pytest.raises(UnusableFile) as unusable:
        IdentityStore(world.folder / "home" / "first").open(now_s=NOW_S)
    assert "secret" not in str(unusable.value)
