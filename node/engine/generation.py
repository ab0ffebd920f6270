"""One text generation: what was asked, and what has come of it so far. No llama.cpp memory in here."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from node.engine.binding import Logits
from node.engine.logprobs import token_logprob
from node.engine.sampling import Sampler
from node.engine.text import TokenText
from node.engine.vocab import Vocab
from node.fingerprint import NO_MARKS, Marks, after_reply
from node.jobs import Chat, Delta, Done, FinishReason, Message, Sampling, TokenLogprob, ToolCall, Usage

if TYPE_CHECKING:  # the engine only calls a parser; making one takes a template
    from node.prompt import OutputParser

# A model that never ends must not run for ever; Ollama's limit, in contexts.
_ENDLESS_CONTEXTS = 10


@dataclass(frozen=True, slots=True)
class Ticket:
    """A generation as the engine takes it: rendered, tokenised, and known to fit the context.

    `prompt` leaves room for one token at least. `parser` None: output is plain text. `received_ns` is
    time.monotonic_ns when the job arrived. `marks`: the prompt's fingerprint; `chat`: the conversation that the output
    is a reply in, if it is one.
    """

    job: str
    prompt: list[int]
    sampling: Sampling
    received_ns: int
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    logprobs: int | None = None
    num_keep: int = 0
    shift: bool = True
    resume: tuple[int, ...] = ()
    parser: OutputParser | None = None
    think_before_format: bool = False
    marks: Marks = NO_MARKS
    chat: Chat | None = None


class Generation:
    """The growing output of a ticket: tokens in, `Delta`s out, until `reason` says why it is over."""

    def __init__(self, ticket: Ticket, sampler: Sampler, vocab: Vocab, *, context_tokens: int) -> None:
        self.ticket = ticket
        self.sampler = sampler
        self.reason: FinishReason | None = None
        self.output: list[int] = []
        self.cached_tokens = 0
        self._vocab = vocab
        self._text = TokenText(ticket.stop)
        self._shown = _shown_controls(vocab, ticket.parser)
        self._ended = False  # an end token was sampled: it counts, but is not output
        endless = _ENDLESS_CONTEXTS * context_tokens
        self._budget = endless if ticket.max_tokens is None else ticket.max_tokens
        self._started_ns = time.monotonic_ns()
        self._first_token_ns = 0
        self._forced: list[int] = []
        self._said: list[tuple[str, str, tuple[ToolCall, ...]]] = []
        sampler.remember_prompt(ticket.prompt)
        self._resume_after(ticket.resume)

    @property
    def tokens_to_prefill(self) -> list[int]:
        """What stands before the next sampled token, in full."""
        return self.ticket.prompt + self.output

    def next_token(self, logits: Logits) -> tuple[int | None, Delta | None]:
        """Sample, take the token in, and say what to evaluate next (None: it is over) and what to send.

        Raises: JobError: see `Sampler`.
        """
        if not self._first_token_ns:
            self._first_token_ns = time.monotonic_ns()
        if len(self.output) >= self._budget:
            self.reason = "length"
            return None, self._last_delta()
        token = self._sample(logits)
        if self._forced:  # delivered before; only the sampler had to see these logits
            token = self._forced.pop(0)
            self._take(token)
            return token, None
        if self._vocab.is_end(token):
            self._ended = True
            self.reason = "stop"
            return None, self._last_delta()
        logprobs: tuple[TokenLogprob, ...] = ()
        if self.ticket.logprobs is not None:
            logprobs = (token_logprob(logits, token, self.ticket.logprobs, self._vocab),)
        text, thinking, calls = self._take(token)
        if self._text.stopped or len(self.output) >= self._budget:
            self.reason = "stop" if self._text.stopped else "length"
            rest = self._rest()
            text, thinking, calls = text + rest[0], thinking + rest[1], calls + rest[2]
        delta = Delta(
            job=self.ticket.job,
            text=text,
            thinking=thinking,
            tool_calls=calls,
            tokens=(token,),
            logprobs=logprobs,
        )
        return (None if self.reason else token), delta

    def cut_short(self) -> Delta | None:
        """The context is full and may not be shifted: end here; returns the held-back output."""
        self.reason = "length"
        return self._last_delta()

    def done(self) -> Done:
        """The last event. Call once `reason` is set."""
        assert self.reason is not None
        now = time.monotonic_ns()
        first = self._first_token_ns or now
        usage = Usage(
            prompt_tokens=len(self.ticket.prompt),
            cached_tokens=self.cached_tokens,
            output_tokens=len(self.output) + self._ended,
            queue_ns=self._started_ns - self.ticket.received_ns,
            prompt_ns=first - self._started_ns,
            output_ns=now - first,
        )
        return Done(
            job=self.ticket.job,
            reason=self.reason,
            usage=usage,
            context=(*self.ticket.prompt, *self.output),
        )

    def marks(self) -> Marks:
        """The fingerprint of the prompt and, in a conversation, of the reply: what its next turn begins with."""
        chat = self.ticket.chat
        if chat is None:
            return self.ticket.marks
        texts, thoughts, calls = zip(*self._said, strict=True) if self._said else ((), (), ())
        reply = Message(
            role="assistant", content="".join(texts), thinking="".join(thoughts), tool_calls=tuple(chain(*calls))
        )
        return after_reply(chat, reply)

    def _resume_after(self, tokens: Sequence[int]) -> None:
        """Take in what another machine has already delivered, as if it had been sampled here."""
        if self.sampler.learns_from_draws:
            self._forced = list(tokens)
            return
        for token in tokens:
            self._take(token)
        if self._text.stopped or (tokens and len(self.output) >= self._budget):
            self.reason = "stop" if self._text.stopped else "length"

    def _sample(self, logits: Logits) -> int:
        """The next token. While the model may think, the format does not bind it; its first answer token it does."""
        if not self._may_still_think():
            return self.sampler.sample(logits)
        token = self.sampler.sample(logits, free=True)
        if not (self._vocab.is_end(token) or self._begins_answer(token)):
            return token
        # A token may finish the closing tag and begin the answer at once; the answer's part would escape the format.
        assert self.ticket.parser is not None
        if rest := self.ticket.parser.tag_rest:
            return self._vocab.tokenize(rest, add_special=False, parse_special=True)[0]
        return self.sampler.sample(logits)

    def _may_still_think(self) -> bool:
        parser = self.ticket.parser
        bound = self.ticket.grammar is not None and self.ticket.think_before_format
        return bound and parser is not None and not parser.answering

    def _begins_answer(self, token: int) -> bool:
        """Whether this token, put after the output so far, is answer text."""
        text, parser = copy.deepcopy(self._text), copy.deepcopy(self.ticket.parser)
        assert parser is not None
        return bool(parser.feed(text.feed(self._piece(token))).text.strip())

    def _take(self, token: int) -> tuple[str, str, tuple[ToolCall, ...]]:
        """Advance sampler, text and parser by a token."""
        self.sampler.accept(token, free=self._may_still_think() and not self._begins_answer(token))
        self.output.append(token)
        text = self._text.feed(self._piece(token))
        parser = self.ticket.parser
        if parser is None or not text:
            return self._say(text)
        parsed = parser.feed(text)
        return self._say(parsed.text, parsed.thinking, parsed.tool_calls)

    def _say(
        self, text: str, thinking: str = "", calls: tuple[ToolCall, ...] = ()
    ) -> tuple[str, str, tuple[ToolCall, ...]]:
        """Remember what the client gets."""
        said = text, thinking, calls
        self._said.append(said)
        return said

    def _piece(self, token: int) -> bytes:
        if token in self._vocab.controls and token not in self._shown:
            return b""
        return self._vocab.piece(token)

    def _rest(self) -> tuple[str, str, tuple[ToolCall, ...]]:
        """What text and parser still hold back."""
        text = self._text.finish()
        parser = self.ticket.parser
        if parser is None:
            return self._say(text)
        parsed, last = parser.feed(text), parser.finish()
        return self._say(parsed.text + last.text, parsed.thinking + last.thinking, parsed.tool_calls + last.tool_calls)

    def _last_delta(self) -> Delta | None:
        text, thinking, calls = self._rest()
        if not (text or thinking or calls):
            return None
        return Delta(job=self.ticket.job, text=text, thinking=thinking, tool_calls=calls)


def _shown_controls(vocab: Vocab, parser: OutputParser | None) -> frozenset[int]:
    """The control tokens that the parser looks for."""
    if parser is None or not parser.markers:
        return frozenset()
    return vocab.controls_within(parser.markers)
