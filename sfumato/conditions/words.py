"""The words of a prompt and the tokens they are made of, in any script.

A prompt is cut into pieces: a word without the punctuation around it, that punctuation, and in scripts that put no
spaces between words (Chinese, Japanese, Thai and their kin) each letter. Positions count the start token as 0.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from sfumato.models.base import Tokenizer
from sfumato.models.prompt_syntax import plain_text

_PUNCTUATION = string.punctuation + "“”‘’«»…、。，！？；：（）「」『』・"
_NO_SPACES = (  # first and last letter of scripts whose words are not set apart
    ("\u0e00", "\u0eff"),  # Thai, Lao
    ("\u1000", "\u109f"),  # Burmese
    ("\u1780", "\u17ff"),  # Khmer
    ("\u3005", "\u3007"),  # ideographic marks
    ("\u3041", "\u30ff"),  # kana
    ("\u3400", "\u9fff"),  # Chinese characters
    ("\uf900", "\ufaff"),
    ("\U00020000", "\U000323af"),
)


@dataclass(frozen=True)
class Piece:
    """A part of a prompt that is kept, swapped or looked up as a whole.

    Attributes:
        text: As it is written.
        key: The same without regard to case.
        ids, positions: Its tokens, and where they stand in the prompt.
        word: Which of the prompt's words, split at spaces, it is in.
        is_punctuation: Whether it is punctuation alone.
    """

    text: str
    key: str
    ids: tuple[int, ...]
    positions: tuple[int, ...]
    word: int
    is_punctuation: bool


def pieces_of(tokenizer: Tokenizer, prompt: str) -> list[Piece]:
    """The pieces of a prompt in order; those that share a token are one. Every token is in exactly one of them."""
    prompt = plain_text(prompt)
    ids = tokenizer.ids(prompt)
    parts = [(word, part) for word, text in enumerate(prompt.split()) for part in _parts(text)]
    ends = _ends_by_bytes(tokenizer, ids, parts) or _ends_by_counts(tokenizer, ids, parts)
    found, text, start = [], "", 0
    for (word, part), end in zip(parts, ends, strict=True):
        text += part
        if end is None:  # its last token goes on into the next part
            continue
        positions = tuple(range(start + 1, end + 1))
        is_punctuation = all(letter in _PUNCTUATION for letter in text)
        found.append(Piece(text, text.casefold(), tuple(ids[start:end]), positions, word, is_punctuation))
        text, start = "", end
    return found


def occurrences(pieces: Sequence[Piece], wanted: str) -> list[list[int]]:
    """Token positions of each place where a word or phrase stands, without regard to case.

    Punctuation around it does not count, nor does any within it where the phrase has none; where it has, it must be
    there.
    """
    sought = " ".join(wanted.casefold().split())
    for seen in (list(pieces), [piece for piece in pieces if not piece.is_punctuation]):
        joints = [" " if k and piece.word != seen[k - 1].word else "" for k, piece in enumerate(seen)]
        ends = list(accumulate(len(joint) + len(piece.key) for joint, piece in zip(joints, seen, strict=True)))
        starts = {end - len(piece.key): k for k, (end, piece) in enumerate(zip(ends, seen, strict=True))}
        stops = {end: k for k, end in enumerate(ends)}
        line = "".join(joint + piece.key for joint, piece in zip(joints, seen, strict=True))
        found = []
        at = line.find(sought) if sought else -1
        while at >= 0:
            if at in starts and at + len(sought) in stops:
                inside = seen[starts[at] : stops[at + len(sought)] + 1]
                found.append([position for piece in inside for position in piece.positions])
            at = line.find(sought, at + 1)
        if found:
            return found
    return []


def _parts(word: str) -> Iterator[str]:
    """A word of no spaces cut at its outer punctuation, and at each letter of a script without spaces."""
    for is_single, group in groupby(_letters(word), key=lambda letter: _has_no_spaces(letter[0])):
        if is_single:
            yield from group
            continue
        text = "".join(group)
        core = text.strip(_PUNCTUATION)
        before = text[: len(text) - len(text.lstrip(_PUNCTUATION))]
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


def _has_no_spaces(letter: str) -> bool:
    return any(first <= letter <= last for first, last in _NO_SPACES)


def _ends_by_bytes(
    tokenizer: Tokenizer, ids: Sequence[int], parts: Sequence[tuple[int, str]]
) -> list[int | None] | None:
    """How many tokens each part ends after, None where one goes on; by the bytes that each token stands for.

    None as a whole where the tokenizer cannot tell, or its tokens are not the text (learned words of several vectors).
    """
    size = getattr(tokenizer, "size", None)
    if size is None:
        return None
    sizes = {token: size(token) for token in set(ids)}
    token_ends = {end: count for count, end in enumerate(accumulate(sizes[token] for token in ids), start=1)}
    lengths = [len(unicodedata.normalize("NFC", part).lower().encode()) for _, part in parts]
    if sum(lengths) != next(reversed(token_ends), 0):
        return None
    return [token_ends.get(end) for end in accumulate(lengths)]


def _ends_by_counts(tokenizer: Tokenizer, ids: Sequence[int], parts: Sequence[tuple[int, str]]) -> list[int | None]:
    """The same by tokenising each part, or else each word, by itself; else by the letters of the decoded tokens."""
    ends: list[int | None] = list(accumulate(len(tokenizer.ids(part)) for _, part in parts))
    if (ends[-1] if ends else 0) == len(ids):
        return ends
    words = ["".join(part for _, part in group) for _, group in groupby(parts, key=lambda part: part[0])]
    counts = [len(tokenizer.ids(word)) for word in words]
    if sum(counts) != len(ids):
        counts = _counts_by_letters(tokenizer, ids, words)
    by_word = list(accumulate(counts))
    last = [k + 1 == len(parts) or parts[k + 1][0] != word for k, (word, _) in enumerate(parts)]
    return [by_word[word] if is_last else None for (word, _), is_last in zip(parts, last, strict=True)]


def _counts_by_letters(tokenizer: Tokenizer, ids: Sequence[int], words: Sequence[str]) -> list[int]:
    """Tokens of each word: it is complete once as many letters were seen as it has (as in the authors' code)."""
    counts = [0] * len(words)
    word, seen = 0, 0
    for token in ids:
        counts[word] += 1
        seen += len(tokenizer.text(token))
        if seen >= len(words[word]) and word + 1 < len(words):
            word, seen = word + 1, 0
    return counts
