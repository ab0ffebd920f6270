"""Drop the oldest turns of a conversation until its prompt fits: Ollama's rule, with whole turns first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from node.jobs import Chat


def fit_messages(chat: Chat, limit_tokens: int, count: Callable[[Chat], int]) -> Chat:
    """Return `chat`, or as much of its end as fits into `limit_tokens`, the last message at least.

    System messages stay, wherever they stood. The cut is made before a user's message where that is enough, so
    that no answer loses its question and no tool's result its call; only where the last turn alone is too long,
    in the middle of it. The last message is kept even if it is too long by itself.

    Args:
        count: length of a chat's prompt in tokens; asked a logarithmic number of times, as fewer messages are
            never longer. What it raises is passed on.
    """
    last = len(chat.messages) - 1
    if last < 1 or count(chat) <= limit_tokens:
        return chat
    turns = [at for at in range(1, last + 1) if chat.messages[at].role == "user"]
    inside = list(range(turns[-1] + 1 if turns else 1, last + 1))
    for cuts in (turns, inside):
        if (found := _first_fit(chat, cuts, limit_tokens, count)) is not None:
            return found
    return _without(chat, last)


def _first_fit(chat: Chat, cuts: Sequence[int], limit_tokens: int, count: Callable[[Chat], int]) -> Chat | None:
    """The longest rest that fits, by bisection over the cuts; None where none does."""
    low, high = 0, len(cuts)
    best = None
    while low < high:
        middle = (low + high) // 2
        shorter = _without(chat, cuts[middle])
        if count(shorter) <= limit_tokens:
            best, high = shorter, middle
        else:
            low = middle + 1
    return best


def _without(chat: Chat, cut: int) -> Chat:
    """The chat from message `cut` on, and the system messages before it."""
    kept = [message for message in chat.messages[:cut] if message.role == "system"]
    return replace(chat, messages=(*kept, *chat.messages[cut:]))
