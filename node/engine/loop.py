"""The step loop: continuous batching over one context, run by the one thread that owns llama.cpp's side.

Each step evaluates one batch with tokens of many sequences, samples where a sequence has caught up, and sends
what all of them produced in one go. Which tokens go in is `scheduler`'s decision, which sequence a prompt gets
`prefix`'s.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.engine.binding import DECODE_ABORTED, Batch, Context
from node.engine.errors import DecodeError, JobError
from node.engine.generation import Generation, Ticket
from node.engine.mailbox import Mailbox
from node.engine.prefix import place
from node.engine.sampling import Candidates, Sampler
from node.engine.scheduler import Pace, Share, plan_step
from node.engine.slots import Slot, best_source, needs, ready_prompts
from node.fingerprint import PrefixLedger
from node.jobs import Event, Failed
from node.runner.protocol import Standing

log = logging.getLogger(__name__)

# A cancelled prompt's step is only worth interrupting if it would go on for longer than this.
_ABORT_WORTH_S = 0.1

Send = Callable[[Sequence[Event]], None]
Tell = Callable[[Standing], None]


@dataclass(frozen=True, slots=True)
class _Cancel:
    job: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


class Engine:
    """Generates text for many jobs at once. `submit`, `cancel` and `stop` may be called from any thread.

    Args:
        send: called with the events of a step, in order, from the engine's thread. It may block; generation
            then waits.
        tell: called from the same thread before that, when the step has changed how the engine stands.
    """

    def __init__(self, context: Context, send: Send, tell: Tell) -> None:
        self._context = context
        self._vocab = context.model.vocab
        self._send, self._tell = send, tell
        self._ledger = PrefixLedger()
        self._told = self._ledger.version, 0
        self._can_rewind = not context.model.remembers_only_forward
        self._slots = [Slot(i) for i in range(context.sequences)]
        self._waiting: deque[Ticket] = deque()
        self._mailbox: Mailbox[Ticket | _Cancel | _Stop] = Mailbox()
        self._next_token = [Share(s.index, 1, prompt=False) for s in self._slots]
        self._batch = Batch(context.batch_tokens)
        self._candidates = Candidates(self._vocab.size)
        self._pace = Pace(context.batch_tokens)
        self._events: list[Event] = []
        self._tick = 0
        self._stopping = False
        self._reading: frozenset[str] = frozenset()  # jobs whose prompts the running step evaluates
        self._step_ends_s = 0.0
        self._streams_served_s = 0.0

    def submit(self, ticket: Ticket) -> None:
        """Queue a generation; its events follow through `send`."""
        self._mailbox.put(ticket)

    def cancel(self, job: str) -> None:
        """Forget a job, if it is there; its slot is free at the next step."""
        self._mailbox.put(_Cancel(job))
        if job in self._reading and self._step_ends_s - time.monotonic() > _ABORT_WORTH_S:
            self._context.abort()

    def stop(self) -> None:
        """Make `run` return after the running step."""
        self._mailbox.put(_Stop())

    def run(self) -> None:
        """Serve until `stop`. Raises whatever is not a job's own fault: the process can't go on then."""
        while not self._stopping:
            idle = not self._waiting and not any(s.busy for s in self._slots)
            self._read_mail(wait_s=None if idle else 0.0)
            self._admit()
            self._step()
            self._tell_standing()
            if self._events:
                events, self._events = self._events, []
                self._send(events)

    def _tell_standing(self) -> None:
        told_version, told_backlog = self._told
        backlog = 0
        for slot in self._slots:
            if slot.prefilling:
                backlog += len(slot.pending)
        for ticket in self._waiting:
            backlog += len(ticket.prompt)
        version = self._ledger.version
        if version == told_version and backlog == told_backlog:
            return
        self._told = version, backlog
        prefixes = self._ledger.hashes() if version != told_version else None
        self._tell(Standing(backlog_tokens=backlog, prefixes=prefixes))

    def _read_mail(self, *, wait_s: float | None) -> None:
        for message in self._mailbox.take(wait_s=wait_s):
            if isinstance(message, Ticket):
                self._waiting.append(message)
            elif isinstance(message, _Cancel):
                self._forget(message.job)
            else:
                self._stopping = True

    def _forget(self, job: str) -> None:
        self._waiting = deque(t for t in self._waiting if t.job != job)
        for slot in self._slots:
            if slot.generation is not None and slot.generation.ticket.job == job:
                self._release(slot)

    def _admit(self) -> None:
        """Give free slots to waiting jobs, first come first served."""
        while self._waiting and not all(s.busy for s in self._slots):
            ticket = self._waiting.popleft()
            try:
                self._start(ticket)
            except JobError as error:
                self._events.append(Failed(job=ticket.job, kind=error.kind, message=error.message))

    def _start(self, ticket: Ticket) -> None:
        sampler = Sampler(
            self._vocab,
            self._candidates,
            ticket.sampling,
            grammar=ticket.grammar,
            context_tokens=self._context.context_tokens,
        )
        try:
            generation = Generation(ticket, sampler, self._vocab, context_tokens=self._context.context_tokens)
        except JobError:
            sampler.close()
            raise
        if generation.reason:  # nothing was left to do after the resumed tokens
            sampler.close()
            self._events.append(generation.done())
            return
        tokens = self._fitting(generation)
        placement = place(tokens, [s.held() for s in self._slots], can_rewind=self._can_rewind)
        assert placement is not None
        slot = self._slots[placement.slot]
        self._tick += 1
        slot.arrival = slot.last_used = self._tick
        slot.generation = generation
        slot.prefilling = True
        if placement.source is not None:
            self._copy(self._slots[placement.source], slot, placement.keep)
        else:
            self._cut(slot, placement.keep)
        slot.pending = tokens[len(slot.tokens) :]
        generation.cached_tokens = min(len(slot.tokens), len(ticket.prompt))

    def _fitting(self, generation: Generation) -> list[int]:
        """The tokens to prefill; where those resumed after make them too many, without the oldest half."""
        tokens = generation.tokens_to_prefill
        while len(tokens) >= self._context.context_tokens:
            keep = self._kept(generation.ticket)
            del tokens[keep : keep + max(1, (self._context.context_tokens - keep) // 2)]
        return tokens

    def _copy(self, source: Slot, target: Slot, count: int) -> None:
        self._context.copy_sequence(source.index, target.index)
        target.tokens = list(source.tokens)
        target.exact = source.exact
        self._ledger.place(target.index, count, source.index)
        self._cut(target, count)

    def _cut(self, slot: Slot, count: int) -> None:
        """Keep the slot's first `count` tokens, or none where its memory can't be cut there."""
        if count < len(slot.tokens) and not self._context.truncate(slot.index, count):
            self._context.truncate(slot.index, -1)
            count = 0
        self._keep(slot, count)

    def _keep(self, slot: Slot, count: int) -> None:
        """The slot's memory was cut down to its first `count` tokens."""
        slot.keep(count)
        self._ledger.place(slot.index, slot.exact)

    def _step(self) -> None:
        self._make_room()
        shares = self._plan()
        if not shares:
            return
        outputs = self._fill(shares)
        if not self._evaluate(shares):
            return
        for share, output in zip(shares, outputs, strict=True):
            slot = self._slots[share.slot]
            slot.evaluated(share.tokens)
            if not slot.pending:
                self._advance(slot, output)

    def _plan(self) -> Sequence[Share]:
        """What the next step evaluates, in ascending order of slots: else llama.cpp does not see neighbours."""
        if not any(s.prefilling for s in self._slots):  # by far the most steps, and the ones that must be quick
            return [self._next_token[s.index] for s in self._slots if s.generation is not None]
        self._borrow()
        wanted = needs(self._slots)
        first = min((n for n in wanted if n.prompt_tokens), key=lambda n: n.arrival)
        turn = self._pace.turn(
            first_prompt_tokens=first.prompt_tokens, waited_s=time.monotonic() - self._streams_served_s
        )
        shares = plan_step(wanted, batch_tokens=self._context.batch_tokens, turn=turn)
        return sorted(shares, key=lambda s: s.slot)

    def _make_room(self) -> None:
        """Shift the context of streams that have filled theirs, or end them."""
        for slot in self._slots:
            if slot.generation is None or len(slot.tokens) < self._context.context_tokens:
                continue
            ticket = slot.generation.ticket
            if not (ticket.shift and self._context.can_shift):
                delta = slot.generation.cut_short()
                if delta:
                    self._events.append(delta)
                self._finish(slot)
                continue
            keep = self._kept(ticket)
            end = keep + max(1, (len(slot.tokens) - keep) // 2)
            self._context.discard(slot.index, keep, end)
            del slot.tokens[keep:end]
            slot.exact = min(slot.exact, keep)
            self._ledger.place(slot.index, slot.exact)

    def _kept(self, ticket: Ticket) -> int:
        """How many tokens at the beginning a shift leaves alone; at least one token can go."""
        count = len(ticket.prompt) if ticket.num_keep < 0 else ticket.num_keep
        return min(count + self._vocab.adds_bos, self._context.context_tokens // 2)

    def _borrow(self) -> None:
        """Before a prompt is read: copy what another sequence has meanwhile read of the same beginning."""
        if not self._can_rewind:
            return
        for slot in ready_prompts(self._slots):
            generation = slot.generation
            if generation is not None and (found := best_source(slot, self._slots)):
                source, count = found
                wanted = slot.tokens + slot.pending
                self._copy(source, slot, count)
                slot.pending = wanted[len(slot.tokens) :]
                generation.cached_tokens = min(len(slot.tokens), len(generation.ticket.prompt))

    def _fill(self, shares: Sequence[Share]) -> list[int]:
        """Put the shares into the batch; returns the index of each one's last token."""
        batch = self._batch
        batch.clear()
        outputs = []
        for share in shares:
            slot = self._slots[share.slot]
            if share.prompt:
                ends = share.tokens == len(slot.pending)
                tokens = slot.pending[: share.tokens]
                outputs.append(batch.add(slot.index, tokens, len(slot.tokens), output=ends))
            else:
                outputs.append(batch.add_one(slot.index, slot.pending[0], len(slot.tokens)))
        return outputs

    def _evaluate(self, shares: Sequence[Share]) -> bool:
        """Decode the batch; False when it was aborted or failed, and the slots have been put in order."""
        self._context.forget_abort()
        reading = self._jobs_reading(shares)
        prompt_tokens = self._batch.count - (len(shares) - len(reading))
        start = time.monotonic()
        self._step_ends_s = start + self._pace.step_s(prompt_tokens)
        self._reading = reading
        code = self._context.decode(self._batch)
        self._reading = frozenset()
        if code == 0:
            end = time.monotonic()
            seconds = end - start
            if len(shares) > len(reading) or not any(s.streaming for s in self._slots):
                self._streams_served_s = end
            self._pace.observe(streams=len(shares) - len(reading), prompt_tokens=prompt_tokens, seconds=seconds)
            return True
        if code == DECODE_ABORTED:
            self._undo(shares)
        else:
            self._fail_all(DecodeError(code))
        return False

    def _jobs_reading(self, shares: Sequence[Share]) -> frozenset[str]:
        generations = [self._slots[s.slot].generation for s in shares if s.prompt]
        return frozenset([g.ticket.job for g in generations if g is not None])

    def _undo(self, shares: Sequence[Share]) -> None:
        """Take out what an aborted step left behind; everyone but the cancelled job repeats it."""
        for share in shares:
            slot = self._slots[share.slot]
            if not self._context.truncate(slot.index, len(slot.tokens)):
                slot.pending = slot.tokens + slot.pending
                self._context.truncate(slot.index, -1)
                self._keep(slot, 0)

    def _fail_all(self, error: DecodeError) -> None:
        """A batch failed: nothing in memory is certain any more, so every job in it fails and it is cleared."""
        log.error("%s; failing the running jobs", error)
        for slot in self._slots:
            if slot.generation is not None:
                job = slot.generation.ticket.job
                self._events.append(Failed(job=job, kind="internal", message=str(error)))
                self._release(slot)
            self._keep(slot, 0)
        self._context.clear()

    def _advance(self, slot: Slot, output: int) -> None:
        """Sample a sequence's next token, which the next step evaluates."""
        generation = slot.generation
        assert generation is not None
        if slot.prefilling:
            slot.prefilling = False
            self._ledger.evaluated(slot.index, generation.ticket.marks, len(generation.ticket.prompt))
        try:
            token, delta = generation.next_token(self._context.logits(output))
        except JobError as error:
            self._events.append(Failed(job=generation.ticket.job, kind=error.kind, message=error.message))
            self._release(slot)
            return
        if delta:
            self._events.append(delta)
        if token is None:
            self._finish(slot)
        else:
            slot.pending.append(token)

    def _finish(self, slot: Slot) -> None:
        generation = slot.generation
        assert generation is not None
        self._events.append(generation.done())
        if slot.exact == len(slot.tokens):  # else its beginning is no longer what the marks stand for
            self._ledger.evaluated(slot.index, generation.marks(), len(slot.tokens))
        self._release(slot)

    def _release(self, slot: Slot) -> None:
        assert slot.generation is not None
        slot.generation.sampler.close()
        self._tick += 1
        slot.release(self._tick)
