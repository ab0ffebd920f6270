"""Fingerprints of a prompt's beginnings, so that a cache on one machine and a request on another can be compared.

A prompt is hashed front to back in one chain, and a mark is set at each message's end and at every 2 KiB within a
long one. Two prompts that share a mark share everything before it: messages, tools, the template asked for. Marks are
made of messages and not of tokens, because the machine that routes has neither the vocabulary nor the template.

A mark is 64 bits: a false match costs one wrong estimate. Hashes are not secret: a member who knows a text can tell
that somebody sent it (members can run code on each other anyway; nobody else sees reports).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from node.jobs import Chat, Infill, Message, Prompt
from node.report import MAX_PREFIXES, PrefixHash

BLOCK_BYTES = 2048
# What a mark is kept for: a shared system prompt or document (the first ones), and the next or a repeated turn (the
# last ones). Both sides drop the same middle of a long conversation, so they still meet.
FIRST_MARKS, LAST_MARKS = 16, 48
MAX_MARKS = FIRST_MARKS + LAST_MARKS
# English text in common vocabularies; a request's prompt is only tokenised where it is served.
BYTES_PER_TOKEN = 4.0
TOKENS_PER_MESSAGE = 4
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Marks:
    """A prompt's fingerprint: `hashes[i]` stands for its first `tokens[i]` tokens (estimated) of `total_tokens`."""

    hashes: tuple[PrefixHash, ...] = ()
    tokens: tuple[int, ...] = ()
    total_tokens: int = 0


NO_MARKS = Marks()


def fingerprint(prompt: Prompt) -> Marks:
    """Mark a prompt, in time proportional to its length; at most `MAX_MARKS` marks, in order."""
    return _marks(_blocks(prompt))


def after_reply(chat: Chat, reply: Message) -> Marks:
    """Mark a conversation as its next turn will bring it, with the reply that has just been cached."""
    return fingerprint(msgspec.structs.replace(chat, messages=(*chat.messages, reply)))


@dataclass(frozen=True, slots=True)
class _Block:
    """Bytes of the chain; `tokens` they make in a prompt; whether a mark follows."""

    data: bytes
    tokens: float
    marked: bool = True


def _marks(blocks: Iterable[_Block]) -> Marks:
    chain = blake2b(digest_size=8)
    marks: list[tuple[PrefixHash, int]] = []
    total = 0.0
    for block in blocks:
        # With its length before it, or ("ab", "c") would hash as ("a", "bc").
        chain.update(len(block.data).to_bytes(8, "little"))
        chain.update(block.data)
        total += block.tokens
        if block.marked:
            marks.append((PrefixHash(int.from_bytes(chain.digest(), "little")), int(total)))
    kept = marks if len(marks) <= MAX_MARKS else [*marks[:FIRST_MARKS], *marks[-LAST_MARKS:]]
    return Marks(tuple(mark for mark, _ in kept), tuple(tokens for _, tokens in kept), int(total))


def _blocks(prompt: Prompt) -> Iterator[_Block]:
    if isinstance(prompt, Chat):
        tools = _encode(prompt.tools) if prompt.tools else b""
        head = _encode(("chat", tools, prompt.template, prompt.think, prompt.context))
        yield _Block(head, len(tools) / BYTES_PER_TOKEN + len(prompt.context), marked=False)
        for message in prompt.messages:
            # What stands around the content comes first: messages that differ in it share nothing of their content.
            around = _encode((message.role, message.tool_name, message.tool_call_id))
            yield _Block(around, TOKENS_PER_MESSAGE, marked=False)
            yield from _text_blocks(message.content.encode(), closing=_rest_of(message))
    elif isinstance(prompt, Infill):
        yield _Block(_encode(("infill", prompt.template)), 0, marked=False)
        yield from _text_blocks(prompt.prefix.encode(), closing=prompt.suffix.encode())
    elif isinstance(prompt.prompt, str):
        yield _Block(b"raw", 0, marked=False)
        yield from _text_blocks(prompt.prompt.encode(), closing=b"")
    else:
        yield _Block(b"tokens", 0, marked=False)
        # Four bytes each, so that the estimate of tokens in a block is exact here.
        ids = b"".join(token.to_bytes(4, "little") for token in prompt.prompt)
        yield from _text_blocks(ids, closing=b"")


def _text_blocks(text: bytes, *, closing: bytes) -> Iterator[_Block]:
    """Text in pieces, a mark after each full one, and what ends it: marked too, so it tells an end from a pause."""
    for start in range(0, len(text), BLOCK_BYTES):
        piece = text[start : start + BLOCK_BYTES]
        yield _Block(piece, len(piece) / BYTES_PER_TOKEN, marked=len(piece) == BLOCK_BYTES)
    yield _Block(closing, len(closing) / BYTES_PER_TOKEN)


def _rest_of(message: Message) -> bytes:
    """What of a message a template may show beside its content."""
    if not (message.thinking or message.tool_calls or message.images):
        return b""
    # Without the ids of calls: clients make up their own, and templates rarely show them.
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    images = [blake2b(image, digest_size=16).digest() for image in message.images]
    return _encode((message.thinking, calls, images))


class PrefixLedger:
    """Which marks the sequences of one loaded model still hold, told by the engine as it places and cuts them.

    A mark counts as held while all of its tokens are in a sequence's memory. `version` grows whenever that may have
    changed.
    """

    def __init__(self) -> None:
        # The sequence that was touched last stands last.
        self._held: dict[int, list[tuple[PrefixHash, int]]] = {}
        self.version = 0

    def place(self, slot: int, keep: int, source: int | None = None) -> None:
        """The sequence goes on after its own first `keep` tokens, or after those copied from `source`."""
        known = self._held.get(slot if source is None else source, [])
        self._hold(slot, [(mark, tokens) for mark, tokens in known if tokens <= keep])

    def evaluated(self, slot: int, marks: Marks, prompt_tokens: int) -> None:
        """All that is marked is in the sequence's memory: `prompt_tokens` as tokenised, which scales the estimates."""
        scale = prompt_tokens / marks.total_tokens if marks.total_tokens else 0.0
        known = dict(self._held.get(slot, []))
        for mark, tokens in zip(marks.hashes, marks.tokens, strict=True):
            known.setdefault(mark, min(prompt_tokens, round(tokens * scale)))
        newest = sorted(known.items(), key=lambda item: item[1])
        self._hold(slot, newest if len(newest) <= MAX_MARKS else [*newest[:FIRST_MARKS], *newest[-LAST_MARKS:]])

    def hashes(self) -> frozenset[PrefixHash]:
        """What to report: at most `MAX_PREFIXES`, of the sequences that were touched last."""
        found: set[PrefixHash] = set()
        for marks in reversed(self._held.values()):
            if len(found) + len(marks) > MAX_PREFIXES:
                break
            found.update(mark for mark, _ in marks)
        return frozenset(found)

    def _hold(self, slot: int, marks: list[tuple[PrefixHash, int]]) -> None:
        self._held.pop(slot, None)
        self._held[slot] = marks
        self.version += 1
