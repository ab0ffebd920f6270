"""From a job to what the engine takes: render the prompt, tokenise it, make it fit the context.

All of it happens off the engine's thread. A template comes with somebody's model file and may be hostile;
`node.prompt` bounds its work and time, so the worst it does is to delay this one model's next requests.
"""

from __future__ import annotations

from datetime import datetime

from node.engine.binding import Model
from node.engine.embeddings import EmbedTicket
from node.engine.errors import JobError
from node.engine.generation import Ticket
from node.engine.vocab import Vocab
from node.fingerprint import NO_MARKS, Marks, fingerprint
from node.grammar import InvalidSchema, grammar_for
from node.jobs import Chat, EmbedJob, Infill, Job, Prompt, Raw, Rendered
from node.prompt import OutputParser, PromptTemplate, TemplateError, fit_messages


class Intake:
    """Prepares jobs for one loaded model. Raises JobError for those that can't be served."""

    def __init__(self, model: Model, template: PromptTemplate, *, context_tokens: int) -> None:
        self._vocab = model.vocab
        self._template = template
        self._context_tokens = context_tokens

    def prepare(self, job: Job, *, received_ns: int) -> Ticket:
        """Render and tokenise a generation."""
        vocab = self._vocab
        prompt, parser, chat, marks = self._prompt(job)
        _check_tokens(job.resume, vocab)
        think = isinstance(job.prompt, Chat) and job.prompt.think is not False
        return Ticket(
            job=job.id,
            prompt=prompt,
            sampling=job.sampling,
            received_ns=received_ns,
            max_tokens=job.max_tokens,
            stop=job.stop,
            grammar=_grammar(job),
            logprobs=job.logprobs,
            num_keep=job.num_keep,
            shift=job.shift,
            resume=job.resume,
            parser=parser,
            think_before_format=think,
            marks=marks,
            chat=chat,
        )

    def render(self, job: Job) -> Rendered:
        """Only the prompt text, as `prepare` would tokenise it."""
        prompt = job.prompt
        if isinstance(prompt, Chat):
            chat = self._fitting_chat(prompt, job)
            text = self._render(chat)
            return Rendered(job=job.id, text=text, prompt_tokens=len(self._chat_tokens(chat)))
        if isinstance(prompt, Infill):
            tokens = self._infill_tokens(prompt)
            return Rendered(job=job.id, text=self._detokenize(tokens), prompt_tokens=len(tokens))
        tokens = self._raw_tokens(prompt)
        text = prompt.prompt if isinstance(prompt.prompt, str) else self._detokenize(tokens)
        return Rendered(job=job.id, text=text, prompt_tokens=len(tokens))

    def prepare_embedding(self, job: EmbedJob) -> EmbedTicket:
        """Tokenise texts to embed, cut to the context where the job allows it."""
        inputs = []
        for text in job.inputs:
            if isinstance(text, str):
                tokens = self._vocab.tokenize(text, add_special=True, parse_special=False)
            else:
                tokens = list(text)
                _check_tokens(text, self._vocab)
            if len(tokens) > self._context_tokens:
                if not job.truncate:
                    raise _too_long(len(tokens), self._context_tokens)
                tokens = self._cut_embedding(tokens)
            if not tokens:
                raise JobError("bad_request", "there is nothing to embed in an empty input")
            inputs.append(tokens)
        return EmbedTicket(job.id, inputs, dimensions=job.dimensions, normalize=job.normalize)

    def _cut_embedding(self, tokens: list[int]) -> list[int]:
        """Drop the end, but keep the closing special token (SEP, EOS) that the pooled vector may hang on."""
        last = tokens[-1]
        cut = tokens[: self._context_tokens]
        if last in self._vocab.controls:
            cut[-1] = last
        return cut

    def _prompt(self, job: Job) -> tuple[list[int], OutputParser | None, Chat | None, Marks]:
        """The prompt's tokens, at least one and at most one less than the context, and the output's parser.

        And what of the prompt is in them: the conversation, if the output is a reply in one, and its fingerprint.
        """
        prompt: Prompt = job.prompt
        parser: OutputParser | None = None
        limit = self._context_tokens - 1
        if isinstance(prompt, Chat):
            if any(m.images for m in prompt.messages):
                raise JobError("unsupported", "this model does not take images")
            prompt = self._fitting_chat(prompt, job)
            tokens = self._chat_tokens(prompt)
            parser = self._parser(prompt)
        elif isinstance(prompt, Infill):
            tokens = self._infill_tokens(prompt)
        else:
            tokens = self._raw_tokens(prompt)
        if len(tokens) > limit:
            if not job.truncate:
                raise _too_long(len(tokens), limit)
            return self._without_middle(tokens, job), parser, None, NO_MARKS
        if not tokens:
            tokens = [self._vocab.bos if self._vocab.bos >= 0 else 0]
        replies = isinstance(prompt, Chat) and bool(prompt.messages) and prompt.messages[-1].role != "assistant"
        return tokens, parser, prompt if replies and isinstance(prompt, Chat) else None, fingerprint(prompt)

    def _without_middle(self, tokens: list[int], job: Job) -> list[int]:
        """Keep the first `num_keep` tokens and the newest of the rest."""
        limit = self._context_tokens - 1
        keep = min(max(0, job.num_keep) + self._vocab.adds_bos, limit // 2)
        return tokens[:keep] + tokens[len(tokens) - (limit - keep) :]

    def _fitting_chat(self, chat: Chat, job: Job) -> Chat:
        if not job.truncate:
            return chat
        return fit_messages(chat, self._context_tokens - 1, lambda c: len(self._chat_tokens(c)))

    def _chat_tokens(self, chat: Chat) -> list[int]:
        text = self._render(chat)
        _check_tokens(chat.context, self._vocab)
        # The text goes on where `context` ends, so it does not begin with BOS then.
        tokens = self._vocab.tokenize(text, add_special=not chat.context, parse_special=True)
        return [*chat.context, *tokens]

    def _raw_tokens(self, raw: Raw) -> list[int]:
        if isinstance(raw.prompt, str):
            return self._vocab.tokenize(raw.prompt, add_special=True, parse_special=True)
        _check_tokens(raw.prompt, self._vocab)
        return list(raw.prompt)

    def _infill_tokens(self, infill: Infill) -> list[int]:
        try:
            text = self._template_for(infill.template).render_infill(infill)
        except TemplateError as error:
            raise JobError("bad_request", str(error)) from error
        if text is not None:
            return self._vocab.tokenize(text, add_special=True, parse_special=True)
        tokens = self._vocab.infill(infill.prefix, infill.suffix)
        if tokens is None:
            raise JobError("unsupported", "this model can't fill in text before a suffix")
        return tokens

    def _render(self, chat: Chat) -> str:
        try:
            return self._template_for(chat.template).render(chat, now=datetime.now().astimezone())
        except TemplateError as error:
            raise JobError("bad_request", str(error)) from error

    def _parser(self, chat: Chat) -> OutputParser:
        try:
            return self._template_for(chat.template).output_parser(chat)
        except TemplateError as error:
            raise JobError("bad_request", str(error)) from error

    def _template_for(self, text: str | None) -> PromptTemplate:
        """The model's template, or the one that the request brought."""
        if text is None:
            return self._template
        return load_template(text, None, self._vocab)

    def _detokenize(self, tokens: list[int]) -> str:
        return b"".join(map(self._vocab.piece, tokens)).decode("utf-8", "replace")


def load_template(text: str | None, gguf_template: str | None, vocab: Vocab) -> PromptTemplate:
    """Raises TemplateError."""
    return PromptTemplate.load(text, gguf_template, bos=vocab.text_of(vocab.bos), eos=vocab.text_of(vocab.eos))


def _grammar(job: Job) -> str | None:
    if job.output_format is None:
        return None
    try:
        return grammar_for(job.output_format)
    except InvalidSchema as error:
        raise JobError("bad_request", str(error)) from error


def _check_tokens(tokens: tuple[int, ...], vocab: Vocab) -> None:
    """llama.cpp refuses a whole batch, everybody's, for one token that does not exist."""
    for token in tokens:
        if not 0 <= token < vocab.size:
            raise JobError("bad_request", f"there is no token {token} in this model's vocabulary")


def _too_long(count: int, limit: int) -> JobError:
    return JobError("context_exceeded", f"the input is {count} tokens long; the context has room for {limit}")
