"""What a signed token may use: requests and tokens a minute, and requests at the same time.

Pure, time passed in. Rates are token buckets that hold one minute's worth. A limit holds for the whole cluster: each
node tells in its report what a token has used there (`TokenUse`, counted up since its start), and the others take
the difference out of their own buckets, so that a client gains nothing by asking several machines.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from node.report import MAX_TOKEN_USES, TokenUse

if TYPE_CHECKING:
    from node.identity import NodeId

# Tokens are signed by us, so there are as many as people made; this is against a mistake, not an attack.
MAX_KNOWN_TOKENS = 16_384
_MINUTE_S = 60.0

LimitName: TypeAlias = Literal["requests_per_minute", "tokens_per_minute", "max_parallel"]


@dataclass(frozen=True, slots=True)
class Limits:
    """A token's limits; None: unlimited."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_parallel: int | None = None


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request may go on; what is left after it (None: unlimited), for the X-RateLimit headers."""

    requests_left: int | None = None
    tokens_left: int | None = None


@dataclass(frozen=True, slots=True)
class Limited:
    """The request is refused with 429; `retry_after_s` in whole seconds.

    `by_hearsay`: for what other nodes told of themselves, some of which may have ended since.
    """

    limit: LimitName
    allowed: int
    retry_after_s: int
    by_hearsay: bool = False


@dataclass(slots=True)
class _Bucket:
    """Room for one minute's worth, refilled steadily. Below zero: more was used than allowed, to be waited for."""

    level: float
    at_s: float

    def refill(self, per_minute: int, now_s: float) -> None:
        """Add what has flowed in since the last look."""
        elapsed = max(0.0, now_s - self.at_s)
        self.level = min(float(per_minute), self.level + elapsed * per_minute / _MINUTE_S)
        self.at_s = max(self.at_s, now_s)


@dataclass(slots=True)
class _Account:
    """One token: its buckets, what was used here in all, and what other nodes have told."""

    requests: _Bucket | None = None
    tokens: _Bucket | None = None
    used_requests: int = 0
    used_tokens: int = 0
    active: int = 0
    last_used_s: float = 0.0
    elsewhere: dict[NodeId, TokenUse] = field(default_factory=dict)
    # Use elsewhere that was told before this node met the token, and when: taken out of its buckets once there are.
    owed: TokenUse = field(default_factory=TokenUse)
    owed_at_s: float = 0.0

    def charge(self, requests: int, tokens: int, now_s: float) -> None:
        """Take what was used elsewhere out of the buckets."""
        if self.requests is None and self.tokens is None:
            if not (self.owed.requests or self.owed.tokens):
                self.owed_at_s = now_s
            self.owed = TokenUse(self.owed.requests + requests, self.owed.tokens + tokens)
        if self.requests is not None:
            self.requests.level -= requests
        if self.tokens is not None:
            self.tokens.level -= tokens


class LimitTable:
    """What every token has used lately; one on each node."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def admit(self, token: str, limits: Limits, now_s: float, *, prompt_tokens: int = 0) -> Allowed | Limited:
        """Count a request in, or say which limit it meets. Every admitted one is ended with `release`.

        The tokens of an answer are not known before; they are taken out as they come (`spend`), possibly to below
        zero, and the next request then waits.
        """
        account = self._account(token)
        parallel = limits.max_parallel
        if parallel is not None and account.active + sum(use.active for use in account.elsewhere.values()) >= parallel:
            return Limited("max_parallel", parallel, 1, by_hearsay=account.active < parallel)
        requests = account.requests = _bucket(
            account.requests, limits.requests_per_minute, now_s, owed=account.owed.requests, since_s=account.owed_at_s
        )
        tokens = account.tokens = _bucket(
            account.tokens, limits.tokens_per_minute, now_s, owed=account.owed.tokens, since_s=account.owed_at_s
        )
        account.owed = TokenUse()
        if requests is not None and limits.requests_per_minute is not None and requests.level < 1:
            return _limited("requests_per_minute", limits.requests_per_minute, 1 - requests.level)
        if tokens is not None and limits.tokens_per_minute is not None:
            # A prompt longer than a minute's worth has to be possible at some time: with a full bucket.
            wanted = min(prompt_tokens, limits.tokens_per_minute) or 1
            if tokens.level < wanted:
                return _limited("tokens_per_minute", limits.tokens_per_minute, wanted - tokens.level)
        account.active += 1
        account.last_used_s = now_s
        account.used_requests += 1
        if requests is not None:
            requests.level -= 1
        self._spend(account, prompt_tokens)
        return Allowed(_left(requests), _left(tokens))

    def spend(self, token: str, tokens: int, now_s: float) -> None:
        """Take generated tokens (or a correction of the prompt's estimate) out."""
        account = self._account(token)
        account.last_used_s = now_s
        self._spend(account, tokens)

    def release(self, token: str, now_s: float) -> None:
        """An admitted request has ended, however."""
        account = self._account(token)
        account.active = max(0, account.active - 1)
        account.last_used_s = now_s

    def report(self, now_s: float, *, within_s: float = 2 * _MINUTE_S) -> dict[str, TokenUse]:
        """What to tell the other nodes: every token used lately or in use, most recently used first, bounded."""
        found: dict[str, TokenUse] = {}
        for token, account in reversed(self._accounts.items()):
            if len(found) >= MAX_TOKEN_USES:
                break
            if account.active or (account.used_requests and now_s - account.last_used_s <= within_s):
                found[token] = TokenUse(account.used_requests, account.used_tokens, account.active)
        return found

    def heard(self, node: NodeId, uses: dict[str, TokenUse], now_s: float) -> None:
        """Take in what another node has told: the difference to what it told before."""
        for token, use in uses.items():
            account = self._account(token)
            before = account.elsewhere.get(node)
            account.elsewhere[node] = use
            if before is None:
                # Some of this is long past, which can't be told apart; it empties the buckets, no more.
                account.charge(
                    min(use.requests, _room(account.requests)), min(use.tokens, _room(account.tokens)), now_s
                )
            elif use.requests < before.requests or use.tokens < before.tokens:  # it has started anew, from zero
                account.charge(use.requests, use.tokens, now_s)
            else:
                account.charge(use.requests - before.requests, use.tokens - before.tokens, now_s)
        for token, account in self._accounts.items():
            if token not in uses and (known := account.elsewhere.get(node)) is not None and known.active:
                account.elsewhere[node] = TokenUse(known.requests, known.tokens)

    def forget_node(self, node: NodeId) -> None:
        """A node is lost: nothing of a token runs there any more."""
        self.heard(node, {}, 0.0)

    def _account(self, token: str) -> _Account:
        account = self._accounts.get(token)
        if account is None:
            account = self._accounts[token] = _Account()
            if len(self._accounts) > MAX_KNOWN_TOKENS:
                idle = next((name for name, known in self._accounts.items() if not known.active), None)
                if idle is not None and idle != token:
                    del self._accounts[idle]
        self._accounts.move_to_end(token)
        return account

    def _spend(self, account: _Account, tokens: int) -> None:
        account.used_tokens += max(0, tokens)
        if account.tokens is not None:
            account.tokens.level -= tokens


def _bucket(
    bucket: _Bucket | None, per_minute: int | None, now_s: float, *, owed: int, since_s: float
) -> _Bucket | None:
    """The bucket as it is now; a new one is full but for what is owed."""
    if per_minute is None:
        return None
    if bucket is None:
        bucket = _Bucket(per_minute - min(owed, per_minute), since_s if owed else now_s)
    bucket.refill(per_minute, now_s)
    return bucket


def _room(bucket: _Bucket | None) -> int:
    return 1 << 60 if bucket is None else max(0, int(bucket.level))


def _limited(name: LimitName, per_minute: int, missing: float) -> Limited:
    wait_s = missing / per_minute * _MINUTE_S if per_minute else _MINUTE_S
    return Limited(name, per_minute, max(1, math.ceil(wait_s)))


def _left(bucket: _Bucket | None) -> int | None:
    return None if bucket is None else max(0, int(bucket.level))
