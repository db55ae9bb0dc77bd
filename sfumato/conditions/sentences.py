"""Sentences about a word, to average text embeddings over: templates, a file, or a function that writes them.

The more the sentences differ in all but the word, the more the mean difference is about the word alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from itertools import product
from pathlib import Path

from sfumato.conditions.align import words_of
from sfumato.errors import UsageError

Writer = Callable[[str], Iterable[str]]
"""Writes sentences about a word or phrase: a template bank, a language model, a function of yours."""

OPENINGS = ("", "a photo of", "a picture of", "a drawing of", "a close-up of", "an image of")
PLACES = ("", "on the grass", "in a room", "on a white background", "in the snow", "by the sea", "at night")
ENDINGS = ("", "in bright colours")

_ARTICLES = ("a", "an", "the")
_PREPOSITIONS = ("at", "by", "in", "near", "of", "on", "over", "under", "with", "without")


def template_sentences(words: str) -> list[str]:
    """Every template filled with the words: 84 sentences such as "a photo of a cat in the snow".

    A noun gets an article ("a cat", "an owl"), words that bring an article or start with a preposition stay as they
    are.
    """
    phrase = with_article(words)
    return [" ".join(filter(None, [a, phrase, b, c])) for a, b, c in product(OPENINGS, PLACES, ENDINGS)]


def read_sentences(path: str | os.PathLike[str]) -> list[str]:
    """Reads sentences from a UTF-8 text file, one a line, blank lines left out.

    Raises:
        UsageError: The file is missing, no text, or holds no sentence.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no UTF-8 text"
        raise UsageError(f"cannot read sentences from {path}: {reason}") from error
    sentences = [line.strip() for line in text.splitlines() if line.strip()]
    if not sentences:
        raise UsageError(f"{path} holds no sentence: write one a line")
    return sentences


def changed_words(source_prompt: str, target_prompt: str) -> tuple[str, str]:
    """The words that differ between two prompts, from the first difference to the last, without shared articles.

    Where words are only added or removed, the word that they belong to comes along: "a cat" and "a cat with a hat" give
    "cat" and "cat with a hat", "a cat" and "a red cat" give "cat" and "red cat". Equal prompts give "" and "".
    """
    source, target = words_of(source_prompt), words_of(target_prompt)
    matcher = SequenceMatcher(None, _folded(source), _folded(target), autojunk=False)
    changes = [(a, b, c, d) for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal"]
    if not changes:
        return "", ""
    start, end, start_t, end_t = changes[0][0], changes[-1][1], changes[0][2], changes[-1][3]
    if start == end or start_t == end_t:
        if start > 0 and source[start - 1].casefold() not in (*_ARTICLES, *_PREPOSITIONS):
            start, start_t = start - 1, start_t - 1
        elif end < len(source):
            end, end_t = end + 1, end_t + 1
        else:
            start, start_t = max(start - 1, 0), max(start_t - 1, 0)
    return _bare(source[start:end]), _bare(target[start_t:end_t])


def with_article(words: str) -> str:
    """ "a" or "an" in front of a noun; words that bring their own article or start with a preposition stay."""
    first = words.split()[0].casefold() if words.split() else ""
    if first in (*_ARTICLES, *_PREPOSITIONS):
        return words
    return f"{'an' if first[:1] in tuple('aeio') else 'a'} {words}"


def _folded(words: list[str]) -> list[str]:
    return [word.casefold() for word in words]


def _bare(words: list[str]) -> str:
    kept = words[1:] if len(words) > 1 and words[0].casefold() in _ARTICLES else words
    return " ".join(kept)
