"""Which token of one prompt answers to which token of another, and which tokens a word is made of.

Used by Prompt-to-Prompt (Hertz et al., 2022, https://arxiv.org/abs/2208.01626). Positions count the start token as 0
and stay within one chunk of the text encoder, `length` positions.

Differs from the authors' code, whose behaviour `released=True` gives: a word is looked up without regard to case and
punctuation around it, phrases are allowed, and a word that is not there is an error instead of an edit that does
nothing; runs of spaces count as one; in a word swap everything after the last changed word is aligned with its own
source token (theirs reads a neighbour where token counts differ); padding answers to padding.
"""

from __future__ import annotations

import string
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.base import Tokenizer

Bounds = float | tuple[float, float]
DEFAULT = "default_"
_PUNCTUATION = string.punctuation + "“”‘’«»…、。，！？"


def chunk_length(tokenizer: Tokenizer) -> int:
    """Positions of one chunk, start and end token counted."""
    return tokenizer.max_words_tokens + 2


def words_of(prompt: str, *, released: bool = False) -> list[str]:
    """The prompt's words: split at white space (released: at every single space)."""
    return prompt.split(" ") if released else prompt.split()


def word_positions(tokenizer: Tokenizer, prompt: str, *, released: bool = False) -> list[list[int]]:
    """Token positions of each word of the prompt, in order."""
    words, ids = words_of(prompt, released=released), tokenizer.ids(prompt)
    if not released:
        counts = [len(tokenizer.ids(word)) for word in words]
        if sum(counts) == len(ids):  # byte-pair encoding never joins across white space
            starts = [1 + sum(counts[:k]) for k in range(len(words))]
            return [list(range(start, start + count)) for start, count in zip(starts, counts, strict=True)]
    # Walk over the decoded tokens; a word is complete once as many characters were seen as it has
    found: list[list[int]] = [[] for _ in words]
    word, seen = 0, 0
    for position, token_id in enumerate(ids, start=1):
        if word == len(words):
            break
        found[word].append(position)
        seen += len(tokenizer.text(token_id))
        if seen >= len(words[word]):
            word, seen = word + 1, 0
    return found


def token_indices(tokenizer: Tokenizer, prompt: str, word: str, *, released: bool = False) -> list[int]:
    """Token positions of every occurrence of a word or phrase.

    Raises:
        UsageError: The word is not in the prompt; lists the prompt's words.
    """
    words, positions = words_of(prompt, released=released), word_positions(tokenizer, prompt, released=released)
    if released:
        return [p for text, at in zip(words, positions, strict=True) if text == word for p in at]
    wanted = word.split()
    found: list[int] = []
    for start in range(len(words) - len(wanted) + 1):
        window = words[start : start + len(wanted)]
        if wanted and all(_same_word(a, b) for a, b in zip(window, wanted, strict=True)):
            for text, ask, at in zip(window, wanted, positions[start : start + len(wanted)], strict=True):
                found += at if _fold(text) == _fold(ask) else _core(tokenizer, text, at)
    if not found:
        raise UsageError(f"{word!r} is not in the prompt {prompt!r}; its words: {', '.join(words) or 'none'}")
    return found


def indicator(tokenizer: Tokenizer, prompt: str, words: Sequence[str], *, released: bool = False) -> Tensor:
    """1 at the tokens of the words, (length,), 0 elsewhere.

    Raises:
        UsageError: A word is not in the prompt.
    """
    row = torch.zeros(chunk_length(tokenizer))
    for word in words:
        row[_inside(token_indices(tokenizer, prompt, word, released=released), len(row), word)] = 1.0
    return row


def replace_mapper(tokenizer: Tokenizer, source: str, target: str, *, released: bool = False) -> Tensor:
    """Word swap: weight of each source token in each target token, (length source, length target).

    Words are paired by position. An unchanged word pairs its tokens one to one; a changed one spreads each of its n_s
    source tokens evenly over its n_t target tokens, or one to one when the counts agree.

    Raises:
        UsageError: The prompts differ in their number of words, or have none in common.
    """
    source_words, target_words = words_of(source, released=released), words_of(target, released=released)
    if len(source_words) != len(target_words):
        raise UsageError(
            f"a word swap needs prompts with equally many words, got {len(source_words)} and {len(target_words)}:"
            f" {source!r}, {target!r}; use edit='refine' where words are added or removed"
        )
    if not released and not any(_fold(a) == _fold(b) for a, b in zip(source_words, target_words, strict=True)):
        raise UsageError(
            f"the prompts have no word in common, so nothing of the picture would be kept: {source!r}, {target!r};"
            " describe the whole picture in both, e.g. 'a cat on a sofa' and 'a dog on a sofa'"
        )
    length = chunk_length(tokenizer)
    mapper = torch.zeros(length, length)
    source_at = word_positions(tokenizer, source, released=released)
    target_at = word_positions(tokenizer, target, released=released)
    changed = [
        (s, t)
        for a, b, s, t in zip(source_words, target_words, source_at, target_at, strict=True)
        if a != b and s and t
    ]
    i = j = 0
    for s, t in changed:
        while i < s[0] and i < length and j < length:  # up to the changed word, one to one
            mapper[i, j] = 1.0
            i, j = i + 1, j + 1
        rows, columns = s[0], t[0]
        if len(s) == len(t):
            block = torch.eye(len(s))
        else:
            block = torch.full((len(s), len(t)), 1.0 / len(t))
        fitting = mapper[rows : rows + len(s), columns : columns + len(t)]
        fitting.copy_(block[: fitting.shape[0], : fitting.shape[1]])
        i, j = rows + len(s), columns + len(t)
    while i < length and j < length:
        mapper[j if released and changed else i, j] = 1.0
        i, j = i + 1, j + 1
    if not released:
        mapper[-1, j:] = 1.0  # a shorter target has more padding than the source: it reads the last of it
    return mapper


def refine_mapper(tokenizer: Tokenizer, source: str, target: str, *, released: bool = False) -> tuple[Tensor, Tensor]:
    """Refinement: the source position of each target token, (length,), -1 where new; and 1 where aligned, (length,).

    Global alignment of the token sequences (Needleman & Wunsch, 1970) with gap 0, match 1, mismatch -1: a swapped
    token is never aligned. On ties a new target token is preferred to a dropped source token, and that to a pair.
    """
    length = chunk_length(tokenizer)
    source_ids = [-1, *tokenizer.ids(source), -2][:length]
    target_ids = [-1, *tokenizer.ids(target), -2][:length]
    score = [[0] * (len(target_ids) + 1) for _ in range(len(source_ids) + 1)]
    for i, a in enumerate(source_ids, start=1):
        for j, b in enumerate(target_ids, start=1):
            score[i][j] = max(score[i][j - 1], score[i - 1][j], score[i - 1][j - 1] + (1 if a == b else -1))
    mapper, aligned = torch.full((length,), -1), torch.zeros(length)
    i, j = len(source_ids), len(target_ids)
    while i > 0 and j > 0:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            mapper[j], aligned[j] = i, 1.0
    tail = torch.arange(len(target_ids), length)
    mapper[tail] = tail if released else (tail - len(target_ids) + len(source_ids)).clamp(max=length - 1)
    aligned[tail] = 1.0
    return mapper, aligned


def replace_schedule(
    tokenizer: Tokenizer,
    targets: Sequence[str],
    num_inference_steps: int,
    cross_replace_steps: Bounds | Mapping[str, Bounds],
    *,
    released: bool = False,
) -> Tensor:
    """Weight of the injected cross-attention, (steps + 1, targets, length): 1 from row int(start (N + 1)) to int(end
    (N + 1)).

    The extra row is the authors': their default scheduler made N + 1 network calls. It shifts the bounds (0.8 of 50
    steps ends after 40, 0.5 after 25), and with DDIM the last row is never reached.

    Args:
        tokenizer: The model's.
        targets: Edited prompts.
        num_inference_steps: N.
        cross_replace_steps: A share of the run (0 to b), a pair (start, end), or such per word of the edited prompts
            with "default_" for all others ((0, 1) if missing).
        released: Look words up as the authors' code does.

    Raises:
        UsageError: A bound is outside [0, 1], or a named word is in none of the edited prompts.
    """
    table = dict(cross_replace_steps) if isinstance(cross_replace_steps, Mapping) else {DEFAULT: cross_replace_steps}
    rows = num_inference_steps + 1
    alpha = torch.zeros(rows, len(targets), chunk_length(tokenizer))

    def fill(bounds: Bounds, target: int, columns: slice | list[int]) -> None:
        start, end = share_of_run(bounds, "cross_replace_steps")
        window = torch.zeros(rows, 1)
        window[int(start * rows) : int(end * rows)] = 1.0
        alpha[:, target, columns] = window

    for target in range(len(targets)):
        fill(table.get(DEFAULT, (0.0, 1.0)), target, slice(None))
    for word, bounds in table.items():
        if word == DEFAULT:
            continue
        for target, at in _occurrences(tokenizer, targets, word, released=released):
            fill(bounds, target, _inside(at, alpha.shape[-1], word))
    return alpha


def equalizer(
    tokenizer: Tokenizer, targets: Sequence[str], weights: Mapping[str, float], *, released: bool = False
) -> Tensor:
    """Factor on each token's attention, (targets, length): the word's weight at its tokens, 1 elsewhere.

    Raises:
        UsageError: A word is in none of the edited prompts.
    """
    factors = torch.ones(len(targets), chunk_length(tokenizer))
    for word, weight in weights.items():
        for target, at in _occurrences(tokenizer, targets, word, released=released):
            factors[target, _inside(at, factors.shape[1], word)] = weight
    return factors


def share_of_run(bounds: Bounds, name: str) -> tuple[float, float]:
    """A bound as (start, end): a bare number b means (0, b).

    Raises:
        UsageError: A bound is outside [0, 1], or the end lies before the start.
    """
    start, end = (0.0, float(bounds)) if isinstance(bounds, int | float) else (float(bounds[0]), float(bounds[1]))
    if not 0.0 <= start <= end <= 1.0:
        raise UsageError(
            f"{name} must be a share of the run in [0, 1], or (start, end) with start <= end, got {bounds}"
        )
    return start, end


def _occurrences(
    tokenizer: Tokenizer, prompts: Sequence[str], word: str, *, released: bool
) -> list[tuple[int, list[int]]]:
    """(prompt, token positions) for each prompt that holds the word."""
    found, refused = [], None
    for index, prompt in enumerate(prompts):
        try:
            found.append((index, token_indices(tokenizer, prompt, word, released=released)))
        except UsageError as error:
            refused = error
    if not found and refused is not None:
        raise refused
    return found


def _inside(positions: list[int], length: int, word: str) -> list[int]:
    """The positions that lie in the first chunk; warns about the others."""
    inside = [p for p in positions if p < length - 1]
    if len(inside) < len(positions):
        warnings.warn(
            f"{word!r} lies beyond the first {length - 2} tokens of its prompt, where attention is not edited;"
            " move it further to the front",
            stacklevel=2,
        )
    return inside


def _fold(word: str) -> str:
    return word.casefold()


def _bare(word: str) -> str:
    return _fold(word).strip(_PUNCTUATION)


def _same_word(text: str, wanted: str) -> bool:
    return _fold(text) == _fold(wanted) or (bool(_bare(wanted)) and _bare(text) == _fold(wanted))


def _core(tokenizer: Tokenizer, word: str, positions: list[int]) -> list[int]:
    """The positions of a word without those of the punctuation glued to it."""
    before = len(tokenizer.ids(word[: len(word) - len(word.lstrip(_PUNCTUATION))]))
    core = len(tokenizer.ids(word.strip(_PUNCTUATION)))
    return positions[before : before + core]
