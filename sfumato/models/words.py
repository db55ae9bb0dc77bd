"""The words of a prompt and the tokens they are made of, in any script.

A prompt is cut into words without the punctuation around them, that punctuation, and in scripts that put no spaces
between words (Chinese, Japanese, Thai and their kin) each letter.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Protocol

from sfumato.models.prompt_syntax import plain_text

PUNCTUATION = string.punctuation + "“”‘’«»…、。，！？；：（）「」『』・"
_NO_SPACES = re.compile(  # a letter of a script whose words are not set apart
    "[\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007"  # ideographic marks
    "\u3041-\u30ff"  # kana
    "\u3400-\u9fff"  # Chinese characters
    "\uf900-\ufaff"
    "\U00020000-\U000323af]"
)


class Tokens(Protocol):
    """What cutting asks of a tokenizer."""

    def ids(self, prompt: str) -> list[int]:
        """Token ids of the whole prompt, without start and end token."""

    def characters(self, token_id: int) -> str:
        """A token in characters, without its end-of-word mark."""

    def size(self, token_id: int) -> int | None:
        """How many bytes of text a token stands for; a letter may be several tokens, and a token several letters.

        None: the tokenizer cannot tell.
        """


def words_with_tokens(tokens: Tokens, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
    """The words of a prompt in order, each with its tokens, counted from 0; those that share a token are one.

    Every token is in exactly one of them. Weights written in the prompt are left out.

    Args:
        tokens: The tokenizer.
        prompt: As it is written.
    """
    prompt = plain_text(prompt)
    ids = tokens.ids(prompt)
    parts = [(word, part) for word, text in enumerate(prompt.split()) for part in _parts(text)]
    ends = _ends_by_bytes(tokens, ids, parts) or _ends_by_counts(tokens, ids, parts)
    words, text, first = [], "", 0
    for (_, part), end in zip(parts, ends, strict=True):
        text += part
        if end is None:  # its last token goes on into the next part
            continue
        words.append((text, tuple(range(first, end))))
        text, first = "", end
    return words


def _parts(word: str) -> Iterator[str]:
    """A word of no spaces cut at its outer punctuation, and at each letter of a script without spaces."""
    if not _NO_SPACES.search(word):
        yield from _without_punctuation_around(word)
        return
    for is_single, group in groupby(_letters(word), key=lambda letter: _NO_SPACES.match(letter) is not None):
        if is_single:
            yield from group
        else:
            yield from _without_punctuation_around("".join(group))


def _without_punctuation_around(text: str) -> Iterator[str]:
    """The punctuation before a word, the word and the punctuation behind it, as far as they are there."""
    core = text.strip(PUNCTUATION)
    before = text[: len(text) - len(text.lstrip(PUNCTUATION))]
    yield from filter(None, (before, core, text[len(before) + len(core) :]))


def _letters(word: str) -> list[str]:
    """Characters with the marks that belong to them."""
    letters: list[str] = []
    for character in word:
        if letters and unicodedata.category(character).startswith("M"):
            letters[-1] += character
        else:
            letters.append(character)
    return letters


def _ends_by_bytes(tokens: Tokens, ids: Sequence[int], parts: Sequence[tuple[int, str]]) -> list[int | None] | None:
    """How many tokens each part ends after, None where one goes on; by the bytes that each token stands for.

    None as a whole where the tokenizer cannot tell, or its tokens are not the text (learned words of several vectors).
    """
    sizes = {token: tokens.size(token) for token in set(ids)}
    if None in sizes.values():
        return None
    token_ends = {end: count for count, end in enumerate(accumulate(sizes[token] or 0 for token in ids), start=1)}
    lengths = [len(unicodedata.normalize("NFC", part).lower().encode()) for _, part in parts]
    if sum(lengths) != next(reversed(token_ends), 0):
        return None
    return [token_ends.get(end) for end in accumulate(lengths)]


def _ends_by_counts(tokens: Tokens, ids: Sequence[int], parts: Sequence[tuple[int, str]]) -> list[int | None]:
    """The same by tokenising each part, or else each word, by itself; else by the letters of the decoded tokens."""
    ends: list[int | None] = list(accumulate(len(tokens.ids(part)) for _, part in parts))
    if (ends[-1] if ends else 0) == len(ids):
        return ends
    words = ["".join(part for _, part in group) for _, group in groupby(parts, key=lambda part: part[0])]
    counts = [len(tokens.ids(word)) for word in words]
    if sum(counts) != len(ids):
        counts = _counts_by_letters(tokens, ids, words)
    by_word = list(accumulate(counts))
    last = [k + 1 == len(parts) or parts[k + 1][0] != word for k, (word, _) in enumerate(parts)]
    return [by_word[word] if is_last else None for (word, _), is_last in zip(parts, last, strict=True)]


def _counts_by_letters(tokens: Tokens, ids: Sequence[int], words: Sequence[str]) -> list[int]:
    """Tokens of each word: it is complete once as many letters were seen as it has (as in the authors' code)."""
    counts = [0] * len(words)
    word, seen = 0, 0
    for token in ids:
        counts[word] += 1
        seen += len(tokens.characters(token))
        if seen >= len(words[word]) and word + 1 < len(words):
            word, seen = word + 1, 0
    return counts
