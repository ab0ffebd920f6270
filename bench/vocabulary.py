"""A byte-level BPE vocabulary made of syllables: every text has tokens, and every word of ours is exactly one.

Prompts of a known length in tokens are then simply so many words, on any server that reads the same GGUF.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice, product

CONSONANTS = "bcdfghjklmnpqrstvwxz"
VOWELS = "aeiou"
SPACE = "\u0120"  # how byte-level BPE (GPT-2's alphabet) writes the byte 0x20
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens in id order: specials, single bytes, syllables, then words with the space in front of them.

    Attributes:
        tokens: as GGUF stores them, in GPT-2's byte alphabet.
        merges: BPE merges, first one strongest.
        first_word_id: ids from here on are whole words.
    """

    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    first_word_id: int

    @property
    def turn_end_id(self) -> int:
        """The end-of-sequence token."""
        return SPECIALS.index(TURN_END)

    @property
    def end_of_text_id(self) -> int:
        """The padding token."""
        return SPECIALS.index(END_OF_TEXT)

    def random_text(self, words: int, seed: int) -> str:
        """`words` words, each one token; another seed shares no long prefix with it. Begins with a space."""
        chosen = random.Random(seed).choices(self.tokens[self.first_word_id :], k=words)
        return "".join(chosen).replace(SPACE, " ")


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte value 0..255 (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def _words(syllables: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs (known token, syllable) whose union is the next word: one, then two, then three syllables long."""
    yield from ((SPACE, syllable) for syllable in syllables)
    for stem, syllable in product(syllables, repeat=2):
        yield SPACE + stem, syllable
    for first, second, syllable in product(syllables, repeat=3):
        yield SPACE + first + second, syllable


@cache
def vocabulary(size: int) -> Vocabulary:
    """Build the vocabulary of exactly `size` tokens. Raises: ValueError: too small for bytes and syllables."""
    syllables = [consonant + vowel for consonant, vowel in product(CONSONANTS, VOWELS)]
    fixed = [*SPECIALS, *byte_alphabet(), *syllables]
    if size <= len(fixed):
        raise ValueError(f"a vocabulary needs more than {len(fixed)} tokens, not {size}")
    pairs = list(islice(_words(syllables), size - len(fixed)))
    return Vocabulary(
        tokens=(*fixed, *(stem + syllable for stem, syllable in pairs)),
        merges=(
            *(f"{syllable[0]} {syllable[1]}" for syllable in syllables),
            *(f"{a} {b}" for a, b in pairs),
        ),
        first_word_id=len(fixed),
    )
