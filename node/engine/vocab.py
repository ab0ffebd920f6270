"""Text to tokens and back, with one model's vocabulary. Safe to use from any thread."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as llama

_MAX_PIECE_BYTES = 256


class Vocab:
    """The vocabulary of a loaded model; token ids are ints in `range(size)`."""

    def __init__(self, model: Any) -> None:
        self.handle = llama.llama_model_get_vocab(model)
        self.size = int(llama.llama_vocab_n_tokens(self.handle))
        self.adds_bos = bool(llama.llama_vocab_get_add_bos(self.handle))
        self.bos = int(llama.llama_vocab_bos(self.handle))
        self.eos = int(llama.llama_vocab_eos(self.handle))
        self._infill = (
            int(llama.llama_vocab_fim_pre(self.handle)),
            int(llama.llama_vocab_fim_suf(self.handle)),
            int(llama.llama_vocab_fim_mid(self.handle)),
        )
        self._pieces: list[bytes | None] = [None] * self.size
        self.controls = frozenset(t for t in range(self.size) if llama.llama_vocab_is_control(self.handle, t))
        self._ends = frozenset(t for t in range(self.size) if llama.llama_vocab_is_eog(self.handle, t))

    def is_end(self, token: int) -> bool:
        """Whether the token ends the generation (end of text, end of turn, ...)."""
        return token in self._ends

    def piece(self, token: int) -> bytes:
        """The token's bytes; a control token's name."""
        piece = self._pieces[token]
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def controls_within(self, markers: tuple[str, ...]) -> frozenset[int]:
        """The control tokens whose text occurs in one of the markers."""
        return frozenset(t for t in self.controls if (text := self.text_of(t)) and any(text in m for m in markers))

    def text_of(self, token: int) -> str:
        """The token as it stands in the vocabulary; "" for none (-1)."""
        return self.piece(token).decode("utf-8", "replace") if 0 <= token < self.size else ""

    @property
    def can_infill(self) -> bool:
        """Whether there are tokens for filling in text between a prefix and a suffix."""
        return min(self._infill) >= 0

    def infill(self, prefix: str, suffix: str) -> list[int] | None:
        """Tokens that ask for the text between: prefix token, prefix, suffix token, suffix, middle token.

        None: this vocabulary has no such tokens.
        """
        if not self.can_infill:
            return None
        before, after, middle = self._infill
        head = [self.bos] if self.adds_bos else []
        text = [self.tokenize(t, add_special=False, parse_special=False) for t in (prefix, suffix)]
        return [*head, before, *text[0], after, *text[1], middle]

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`.

        Args:
            text: lone surrogates, which JSON can smuggle in, become U+FFFD.
            add_special: with BOS/EOS/CLS/SEP around it where this vocabulary wants them; BOS not doubled.
            parse_special: control tokens written in the text count as such.
        """
        raw = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
        room = len(raw) + 8
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = llama.llama_tokenize(self.handle, raw, len(raw), tokens, room, add_special, parse_special)
            if count >= 0:
                break
            room = -count
        ids = tokens[:count]
        if add_special and self.adds_bos and ids[:2] == [self.bos, self.bos]:
            del ids[0]  # the text brought its own
        return ids

    def _read_piece(self, token: int) -> bytes:
        room = _MAX_PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = llama.llama_token_to_piece(self.handle, token, buffer, room, 0, True)
            if length >= 0:
                return buffer.raw[:length]
            room = -length
