"""Log-probabilities as clients ask for them: of the model's own distribution, before any sampler. Pure."""

from __future__ import annotations

import numpy as np

from node.engine.binding import Logits
from node.engine.vocab import Vocab
from node.jobs import Alternative, TokenLogprob


def token_logprob(logits: Logits, token: int, top: int, vocab: Vocab) -> TokenLogprob:
    """The natural-log probability of `token` and of the `top` likeliest, best first."""
    wide = logits.astype(np.float64)
    best = wide.max()
    log_total = float(best + np.log(np.exp(wide - best).sum()))

    def alternative(t: int) -> Alternative:
        return Alternative(t, vocab.piece(t), float(logits[t]) - log_total)

    if top <= 0:
        return TokenLogprob(alternative(token))
    top = min(top, len(logits))
    likeliest = np.argpartition(logits, -top)[-top:]
    order = likeliest[np.argsort(-logits[likeliest], kind="stable")]
    return TokenLogprob(alternative(token), tuple(alternative(int(t)) for t in order))
