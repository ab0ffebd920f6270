from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from node.identity import (
    SCOPES,
    ClusterRoot,
    Grant,
    IssuedToken,
    Ledger,
    Scope,
    ScopeRefused,
    TokenRefused,
    TokenVerifier,
    issue_token,
)
from node.identity.tokens import CACHED_TOKENS, MAX_TOKEN_CHARS

NOW_S = 1_800_000_000.0
DAY_S = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def issue(root: ClusterRoot, **terms: Any) -> IssuedToken:
    return issue_token(root, **({"name": "laptop", "scopes": ["infer"], "lifetime_s": DAY_S, "now_s": NOW_S} | terms))


def verifier_of(root: ClusterRoot, *, clock: Callable[[], float] | None = None) -> TokenVerifier:
    return TokenVerifier(root.anchor, lambda _: False, clock=clock or Clock())


def segment(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims_of(text: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(text, options={"verify_signature": False})
    return claims


def forge(root: ClusterRoot, *, header: dict[str, Any] | None = None, **changed: Any) -> str:
    """A token that the real root signed, with another header or other claims than it ever would."""
    text = issue(root).text
    first = segment(header) if header is not None else text.split(".")[0]
    signed_part = f"{first}.{segment(claims_of(text) | changed)}"
    return f"{signed_part}.{segment(root.signing_key.sign(signed_part.encode()))}"


def reason(verifier: TokenVerifier, text: str) -> str:
    with pytest.raises(TokenRefused) as refused:
        verifier.verify(text)
    return refused.value.reason


def test_a_token_grants_what_it_was_issued_with(root: ClusterRoot) -> None:
    issued = issue(
        root,
        name="build server",
        scopes={"models", "infer"},
        models=["llama*", "qwen3:8b"],
        requests_per_minute=60,
        tokens_per_minute=90_000,
        max_parallel=4,
        weight=2.5,
        priority=-3,
    )
    assert verifier_of(root).verify(issued.text) == issued.grant
    assert issued.grant == Grant(
        token_id=issued.grant.token_id,
        name="build server",
        scopes=("infer", "models"),
        issued_at_s=int(NOW_S),
        expires_at_s=int(NOW_S + DAY_S),
        models=("llama*", "qwen3:8b"),
        requests_per_minute=60,
        tokens_per_minute=90_000,
        max_parallel=4,
        weight=2.5,
        priority=-3,
    )


def test_any_jwt_library_reads_our_tokens(root: ClusterRoot) -> None:
    issued = issue(root)
    claims = jwt.decode(
        issued.text,
        root.anchor.root_key,
        algorithms=["EdDSA"],
        audience=root.anchor.cluster_id,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert (claims["jti"], claims["sub"]) == (issued.grant.token_id, "laptop")
    assert jwt.get_unverified_header(issued.text) == {"alg": "EdDSA", "kid": root.anchor.cluster_id, "typ": "JWT"}


def test_a_token_that_another_library_signed_with_the_root_is_accepted(root: ClusterRoot) -> None:
    issued = issue(root)
    text = jwt.encode(
        claims_of(issued.text), root.signing_key, algorithm="EdDSA", headers={"kid": root.anchor.cluster_id}
    )
    assert verifier_of(root).verify(text) == issued.grant


def test_a_token_of_another_cluster_is_refused(root: ClusterRoot, other_root: ClusterRoot) -> None:
    assert reason(verifier_of(root), issue(other_root).text) == "another cluster"


def test_a_token_signed_with_another_key_under_our_key_id_is_refused(root: ClusterRoot) -> None:
    stranger = Ed25519PrivateKey.generate()
    signed_part = issue(root, scopes=["admin"]).text.rpartition(".")[0]
    forged = f"{signed_part}.{segment(stranger.sign(signed_part.encode()))}"
    assert reason(verifier_of(root), forged) == "signature"


def test_a_token_with_other_claims_under_a_genuine_signature_is_refused(root: ClusterRoot) -> None:
    header, _, signature = issue(root).text.split(".")
    claims = claims_of(issue(root).text) | {"scopes": ["admin"]}
    assert reason(verifier_of(root), f"{header}.{segment(claims)}.{signature}") == "signature"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
@pytest.mark.parametrize("signature", ["", "AA", "genuine"])
def test_alg_none_is_refused_with_any_signature(root: ClusterRoot, algorithm: str, signature: str) -> None:
    _, payload, genuine = issue(root).text.split(".")
    header = segment({"alg": algorithm, "kid": root.anchor.cluster_id, "typ": "JWT"})
    text = f"{header}.{payload}.{genuine if signature == 'genuine' else signature}"
    assert reason(verifier_of(root), text) == "algorithm"


def test_hmac_with_the_public_key_as_its_secret_is_refused(root: ClusterRoot) -> None:
    payload = issue(root).text.split(".")[1]
    header = segment({"alg": "HS256", "kid": root.anchor.cluster_id, "typ": "JWT"})
    for secret in (root.anchor.raw_root_key, root.anchor.ca_pem):
        signature = hmac.digest(secret, f"{header}.{payload}".encode(), "sha256")
        assert reason(verifier_of(root), f"{header}.{payload}.{segment(signature)}") == "algorithm"


def test_a_header_that_brings_its_own_key_is_refused_even_if_the_root_signed_it(root: ClusterRoot) -> None:
    ours = {"alg": "EdDSA", "kid": root.anchor.cluster_id, "typ": "JWT"}
    for more in (
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": segment(b"\0" * 32)}},
        {"jku": "https://keys.example/jwks.json"},
        {"x5c": ["MII="]},
        {"crit": ["b64"], "b64": False},
        {"zip": "DEF"},
        {"typ": "at+jwt"},
    ):
        assert reason(verifier_of(root), forge(root, header=ours | more)) == "algorithm"


def test_the_wrong_audience_is_refused_even_if_the_root_signed_it(root: ClusterRoot, other_root: ClusterRoot) -> None:
    for audience in (other_root.anchor.cluster_id, "", "*", root.anchor.cluster_id.upper() + " "):
        assert reason(verifier_of(root), forge(root, aud=audience)) == "audience"


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": None},
        {"aud": ["everybody"]},
        {"exp": "never"},
        {"exp": 2.5},
        {"exp": None},
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": "admin"},
        {"jti": ""},
        {"sub": ""},
        {"rpm": 0},
        {"weight": 0},
        {"weight": -1},
        {"priority": 10**9},
        {"models": ["x"] * 33},
        {"models": [""]},
    ],
)
def test_claims_that_are_out_of_bounds_are_refused_even_if_the_root_signed_them(
    root: ClusterRoot, changed: dict[str, Any]
) -> None:
    assert reason(verifier_of(root), forge(root, **changed)) == "malformed"


def test_a_token_expires_to_the_second_cached_or_not(root: ClusterRoot) -> None:
    clock = Clock()
    verifier = verifier_of(root, clock=clock)
    issued = issue(root, lifetime_s=60)
    clock.now_s = NOW_S + 59.9
    assert verifier.verify(issued.text) == issued.grant
    clock.now_s = NOW_S + 60
    assert reason(verifier, issued.text) == "expired"
    assert reason(verifier_of(root, clock=clock), issued.text) == "expired"


def test_a_token_from_the_future_is_refused_beyond_the_tolerance_for_clocks(root: ClusterRoot) -> None:
    assert verifier_of(root).verify(issue(root, now_s=NOW_S + 100).text).name == "laptop"
    assert reason(verifier_of(root), issue(root, now_s=NOW_S + 200).text) == "not yet valid"


def test_a_revoked_token_is_refused_although_it_was_cached(root: ClusterRoot) -> None:
    ledger = Ledger(root.anchor, now_s=NOW_S)
    verifier = TokenVerifier(root.anchor, ledger.is_token_revoked, clock=Clock())
    issued, other = issue(root), issue(root)
    assert verifier.verify(issued.text) == issued.grant
    ledger.revoke_token(root, issued.grant.token_id, now_s=NOW_S)
    assert reason(verifier, issued.text) == "revoked"
    assert verifier.verify(other.text) == other.grant


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "...", "a.b.c", "ollama", "sk-123", "x" * (MAX_TOKEN_CHARS + 1), "é.é.é", "\0", "a b", "\ud800"],
)
def test_what_is_no_token_is_refused(root: ClusterRoot, text: str) -> None:
    assert reason(verifier_of(root), text) == "malformed"


def test_nesting_without_end_is_refused_in_the_header_and_under_a_genuine_signature(root: ClusterRoot) -> None:
    nested = segment(b'{"a":' + b"[" * 2500 + b"]" * 2500 + b"}")
    assert reason(verifier_of(root), f"{nested}.e30.{'A' * 86}") == "malformed"
    signed_part = f"{issue(root).text.split('.')[0]}.{nested}"
    assert reason(verifier_of(root), f"{signed_part}.{segment(root.signing_key.sign(signed_part.encode()))}") == (
        "malformed"
    )


def test_another_spelling_of_the_same_bytes_is_refused(root: ClusterRoot) -> None:
    text = issue(root).text
    signed_part, _, signature = text.rpartition(".")
    # 64 bytes leave four unused bits in the last of 86 characters.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ 1]
    decoded = [base64.urlsafe_b64decode(each + "==") for each in (signature, twin)]
    assert decoded[0] == decoded[1]
    for spelling in (twin, signature + "=", signature + "==", signature[:-1] + "\n" + signature[-1]):
        assert reason(verifier_of(root), f"{signed_part}.{spelling}") == "malformed"


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_token_survives_a_changed_character(root: ClusterRoot, data: st.DataObject) -> None:
    text = issue(root).text
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(min_codepoint=32, max_codepoint=126).filter(lambda c: c != text[place]))
    with pytest.raises(TokenRefused):
        verifier_of(root).verify(text[:place] + other + text[place + 1 :])


@given(text=st.text(max_size=300))
@settings(max_examples=150, deadline=None)
def test_no_text_makes_the_verifier_fail_otherwise_than_by_refusing(root: ClusterRoot, text: str) -> None:
    with pytest.raises(TokenRefused):
        verifier_of(root).verify(text)


def test_bad_tokens_are_not_cached_and_good_ones_are_bounded(root: ClusterRoot) -> None:
    verifier = verifier_of(root)
    for number in range(50):
        assert reason(verifier, f"{issue(root).text.rpartition('.')[0]}.{segment(bytes([number]) * 64)}")
    assert verifier._checked == {}
    grant = issue(root).grant
    verifier._checked = {number.to_bytes(4, "big"): grant for number in range(CACHED_TOKENS)}
    issued = issue(root)
    assert verifier.verify(issued.text) == issued.grant
    assert len(verifier._checked) == CACHED_TOKENS


def test_the_cache_holds_no_token(root: ClusterRoot) -> None:
    verifier = verifier_of(root)
    text = issue(root).text
    verifier.verify(text)
    assert list(verifier._checked) == [hashlib.sha256(text.encode()).digest()]


@pytest.mark.parametrize(
    ("granted", "allowed"),
    [
        (["infer"], {"infer"}),
        (["models"], {"models"}),
        (["metrics"], {"metrics"}),
        (["admin"], set(SCOPES)),
        (["infer", "models"], {"infer", "models"}),
    ],
)
def test_a_scope_allows_itself_and_admin_allows_all(
    root: ClusterRoot, granted: list[Scope], allowed: set[Scope]
) -> None:
    grant = issue(root, scopes=granted).grant
    assert {scope for scope in SCOPES if grant.allows(scope)} == allowed


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ([], "anything:latest", True),
        (["llama*"], "llama3:8b", True),
        (["LLAMA*"], "Llama3:8B", True),
        (["llama*"], "codellama:7b", False),
        (["llama3"], "llama3:latest", True),
        (["llama3"], "llama3:8b", False),
        (["llama3:latest"], "llama3:latest", True),
        (["qwen3:*b", "demo"], "demo:latest", True),
        (["user/*"], "user/own:latest", True),
        (["user/*"], "other/own:latest", False),
    ],
)
def test_model_patterns(root: ClusterRoot, patterns: list[str], model: str, allowed: bool) -> None:
    assert issue(root, models=patterns).grant.allows_model(model) is allowed


def test_what_is_not_allowed_is_named_with_the_token_and_the_need(root: ClusterRoot) -> None:
    grant = issue(root, models=["demo"]).grant
    grant.require("infer", "demo:latest")
    with pytest.raises(ScopeRefused, match="token 'laptop' does not allow 'admin'"):
        grant.require("admin")
    with pytest.raises(ScopeRefused, match="token 'laptop' does not allow model 'llama3:8b'"):
        grant.require("infer", "llama3:8b")


@pytest.mark.parametrize(
    "terms",
    [
        {"lifetime_s": 0},
        {"lifetime_s": -1},
        {"lifetime_s": float("inf")},
        {"lifetime_s": float("nan")},
        {"scopes": []},
        {"scopes": ["root"]},
        {"name": ""},
        {"name": "x" * 129},
        {"name": "x\ny"},
        {"requests_per_minute": 0},
        {"max_parallel": -1},
        {"models": ["x"] * 33},
        {"weight": 0.0},
        {"name": "x", "models": ["é" * 256] * 32},
    ],
)
def test_a_token_out_of_bounds_is_not_issued(root: ClusterRoot, terms: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        issue(root, **terms)


def test_no_text_of_an_error_or_a_repr_holds_the_token(root: ClusterRoot, other_root: ClusterRoot) -> None:
    issued = issue(root)
    parts = issued.text.split(".")[1:]
    texts = [repr(issued), str(issued), repr(issued.grant)]
    for verifier, text in (
        (verifier_of(other_root), issued.text),
        (verifier_of(root), issued.text[:-4] + "AAAA"),
        (verifier_of(root), issued.text + "A"),
    ):
        with pytest.raises(TokenRefused) as refused:
            verifier.verify(text)
        texts += [str(refused.value), repr(refused.value)]
    assert not [text for text in texts for part in parts if part[:20] in text]
