"""Aligns the tokens of two prompts, and finds the tokens of a word.

Used by Prompt-to-Prompt (Hertz et al., 2022, https://arxiv.org/abs/2208.01626). Positions stay within one chunk of the
text, `TextSide.length`, and before its last, which is an end or padding. Where several encoders read a prompt, their
tokens stand behind one another, and the tokens of each are aligned with its own.

Differs from the authors' code, whose behaviour `released=True` gives: a word is looked up without regard to case and
punctuation around it, phrases are allowed, and a word that is not there is an error instead of an edit that does
nothing; runs of spaces count as one; words are paired by what they are and not by their number (`pairing`), so that a
word can be swapped for a phrase; in a word swap everything after the last changed word is aligned with its own source
token (theirs reads a neighbour where token counts differ); padding answers to padding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sfumato.conditions.pairing import Pairing, aligned, pairing
from sfumato.conditions.words import Piece, occurrences, pieces_of
from sfumato.errors import UsageError
from sfumato.models.base import TextSide
from sfumato.models.prompt_syntax import plain_text

Bounds = float | tuple[float, float]
DEFAULT = "default_"
_START, _END = -1, -2
"""Stand for the tokens around a prompt."""


def encoders_of(text: TextSide) -> Sequence[TextSide]:
    """The text sides whose positions follow one another; the text itself where it is one. Padding may follow them."""
    sides: Sequence[TextSide] = getattr(text, "sides", ())
    return sides or (text,)


def room(text: TextSide) -> int:
    """Positions of one chunk that words can stand at."""
    return max(text.length - 1 - text.start, 0)


def words_end(text: TextSide, prompt: str) -> int:
    """The position after the prompt's last word, which may lie beyond the first chunk."""
    return max((position for _, positions in text.words(prompt) for position in positions), default=text.start - 1) + 1


def tokens_of_words(text: TextSide, prompt: str) -> int:
    """How many tokens the prompt has, in all of its chunks."""
    return sum(len(positions) for _, positions in text.words(prompt))


def words_of(prompt: str, *, released: bool = False) -> list[str]:
    """The prompt's words: split at white space (released: the prompt as it is, at every single space)."""
    return prompt.split(" ") if released else plain_text(prompt).split()


def word_positions(text: TextSide, prompt: str, *, released: bool = False) -> list[list[int]]:
    """Positions of each word of the prompt, in order."""
    words = words_of(prompt, released=released)
    found: list[list[int]] = [[] for _ in words]
    if not released:
        for piece in pieces_of(text, prompt):
            found[piece.word] += piece.positions
        return found
    # Walk over the decoded tokens; a word is complete once as many characters were seen as it has
    word, seen = 0, 0
    for position, (_, characters) in enumerate(text.tokens(prompt), start=text.start):
        if word == len(words):
            break
        found[word].append(position)
        seen += len(characters)
        if seen >= len(words[word]):
            word, seen = word + 1, 0
    return found


def token_indices(text: TextSide, prompt: str, word: str, *, released: bool = False) -> list[int]:
    """Token positions of every occurrence of a word or phrase, punctuation around it left out.

    Raises:
        UsageError: The word is not in the prompt; lists the prompt's words.
    """
    if released:
        words, positions = words_of(prompt, released=True), word_positions(text, prompt, released=True)
        return [p for one, at in zip(words, positions, strict=True) if one == word for p in at]
    return positions_in(pieces_of(text, prompt), prompt, word)


def positions_in(pieces: Sequence[Piece], prompt: str, word: str) -> list[int]:
    """The same from the pieces of the prompt, without a text side."""
    found = [p for place in occurrences(pieces, word) for p in place]
    if not found:
        words = words_of(prompt)
        raise UsageError(f"{word!r} is not in the prompt {prompt!r}; its words: {', '.join(words) or 'none'}")
    return found


def indicator(text: TextSide, prompt: str, words: Sequence[str], *, released: bool = False) -> Tensor:
    """1 at the tokens of the words, (length,), 0 elsewhere.

    Raises:
        UsageError: A word is not in the prompt.
    """
    row = torch.zeros(text.length)
    for word in words:
        row[_inside(text, token_indices(text, prompt, word, released=released), word)] = 1.0
    return row


def pairing_of(text: TextSide, source: str, target: str) -> Pairing:
    """What the target keeps of the source's words, swaps, adds and removes, of `edited_pieces`."""
    return pairing(edited_pieces(text, source), edited_pieces(text, target))


def edited_pieces(text: TextSide, prompt: str) -> list[Piece]:
    """The prompt's pieces that begin within the first chunk, where attention is edited."""
    last = text.length - 1
    return [piece for piece in pieces_of(text, prompt) if piece.positions and piece.positions[0] < last]


def replace_mapper(text: TextSide, source: str, target: str, *, released: bool = False) -> Tensor:
    """Word swap: weight of each source token in each target token, (length source, length target).

    A kept word pairs its tokens one to one. Swapped words, one or many, spread each of their n_s source tokens evenly
    over their n_t target tokens, or one to one when the counts agree.

    Raises:
        UsageError: Words are added or removed (released: the prompts differ in their number of words), or prompts of
            several words have none in common.
    """
    if released:
        return _released_replace_mapper(text, source, target)
    if (sides := encoders_of(text)) != (text,):
        each = [replace_mapper(side, source, target) for side in sides]
        whole: Tensor = torch.block_diag(*each, torch.eye(text.length - sum(map(len, each))))
        return whole
    old, new = edited_pieces(text, source), edited_pieces(text, target)
    found = pairing(old, new)
    counts = len(words_of(source)), len(words_of(target))
    if not found.is_swap and not found.kept and counts[0] == counts[1]:
        raise UsageError(
            f"the prompts have no word in common, so nothing of the image would be kept: {source!r}, {target!r};"
            " describe the whole image in both, such as 'a cat on a sofa' and 'a dog on a sofa'"
        )
    if (
        not found.is_swap and found.kept and len(old) == len(new)
    ):  # asked for all the same: word by word, as the paper has it
        found = Pairing((), tuple(((k,), (k,)) for k in range(len(old))), (), ())
    if not found.is_swap:
        alone = [f"{new[k].text!r} is added" for k in found.added] + [f"{old[k].text!r} removed" for k in found.removed]
        raise UsageError(
            f"a word swap exchanges words for others, or needs equally many words, got {counts[0]} and {counts[1]};"
            f" here {', '.join(alone)}: {source!r}, {target!r}; use edit='refine' where words are added or removed"
        )
    length = text.length
    mapper = torch.zeros(length, length)
    before = min(text.start, length)
    mapper[:before, :before] = torch.eye(before)
    runs = [*(((s,), (t,)) for s, t in found.kept), *found.swapped]
    for run, other in runs:
        rows = [p for k in run for p in old[k].positions if p < length - 1]
        columns = [p for k in other for p in new[k].positions if p < length - 1]
        share = torch.eye(len(rows)) if len(rows) == len(columns) else torch.tensor(1.0 / max(len(columns), 1))
        mapper[torch.tensor(rows, dtype=torch.long)[:, None], torch.tensor(columns, dtype=torch.long)] = share
    i, j = (min(words_end(text, prompt), length - 1) for prompt in (source, target))
    padding = min(length - i, length - j)
    mapper[i : i + padding, j : j + padding] = torch.eye(padding)
    mapper[-1, j + padding :] = 1.0  # a shorter target has more padding than the source: it reads the last of it
    return mapper


def refine_mapper(text: TextSide, source: str, target: str, *, released: bool = False) -> tuple[Tensor, Tensor]:
    """Refinement: the source position of each target token, (length,), -1 where new; and 1 where aligned, (length,).

    What the target keeps of the source is aligned, see `pairing`; a swapped word counts as new. Released: tokens are
    aligned whatever words they are of, in order, see `pairing.aligned`.
    """
    length = text.length
    if not released and (sides := encoders_of(text)) != (text,):
        return _of_each(text, [refine_mapper(side, source, target) for side in sides])
    if released:
        framed = [
            [*[_START] * text.start, *(token for token, _ in text.tokens(prompt)), _END] for prompt in (source, target)
        ]
        i, j = (min(len(tokens), length) - 1 for tokens in framed)
        pairs = aligned(framed[0][:length], framed[1][:length])
    else:
        i, j = (min(words_end(text, prompt), length - 1) for prompt in (source, target))
        old, new = edited_pieces(text, source), edited_pieces(text, target)
        pairs = [*((p, p) for p in range(text.start)), (i, j)]
        for s, t in pairing(old, new).kept:
            both = zip(old[s].positions, new[t].positions, strict=True)
            pairs += [(p, q) for p, q in both if p < length - 1 and q < length - 1]
    mapper, known = torch.full((length,), -1), torch.zeros(length)
    for p, q in pairs:
        mapper[q], known[q] = p, 1.0
    tail = torch.arange(j + 1, length)
    mapper[tail] = tail if released else (tail - j + i).clamp(max=length - 1)
    known[tail] = 1.0
    return mapper, known


def _of_each(text: TextSide, each: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The refinement of a text from those of its encoders; what follows these is aligned with itself."""
    mapper, known = torch.arange(text.length), torch.ones(text.length)
    first = 0
    for own, own_known in each:
        end = first + len(own)
        mapper[first:end], known[first:end] = torch.where(own < 0, own, own + first), own_known
        first = end
    return mapper, known


def _released_replace_mapper(text: TextSide, source: str, target: str) -> Tensor:
    """The authors': words paired by position, and after the last changed word a neighbour where token counts differ."""
    source_words, target_words = words_of(source, released=True), words_of(target, released=True)
    if len(source_words) != len(target_words):
        raise UsageError(
            f"a word swap as released needs prompts with equally many words, got {len(source_words)} and"
            f" {len(target_words)}: {source!r}, {target!r}; use edit='refine' where words are added or removed"
        )
    length = text.length
    mapper = torch.zeros(length, length)
    source_at = word_positions(text, source, released=True)
    target_at = word_positions(text, target, released=True)
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
        block = torch.eye(len(s)) if len(s) == len(t) else torch.full((len(s), len(t)), 1.0 / len(t))
        fitting = mapper[rows : rows + len(s), columns : columns + len(t)]
        fitting.copy_(block[: fitting.shape[0], : fitting.shape[1]])
        i, j = rows + len(s), columns + len(t)
    while i < length and j < length:
        mapper[j if changed else i, j] = 1.0
        i, j = i + 1, j + 1
    return mapper


def replace_schedule(
    text: TextSide,
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
        text: The model's.
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
    alpha = torch.zeros(rows, len(targets), text.length)

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
        for target, at in _occurrences(text, targets, word, released=released):
            fill(bounds, target, _inside(text, at, word))
    return alpha


def equalizer(
    text: TextSide, targets: Sequence[str], weights: Mapping[str, float], *, released: bool = False
) -> Tensor:
    """Factor on each token's attention, (targets, length): the word's weight at its tokens, 1 elsewhere.

    Raises:
        UsageError: A word is in none of the edited prompts.
    """
    factors = torch.ones(len(targets), text.length)
    for word, weight in weights.items():
        for target, at in _occurrences(text, targets, word, released=released):
            factors[target, _inside(text, at, word)] = weight
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


def _occurrences(text: TextSide, prompts: Sequence[str], word: str, *, released: bool) -> list[tuple[int, list[int]]]:
    """(prompt, token positions) for each prompt that holds the word."""
    found, refused = [], None
    for index, prompt in enumerate(prompts):
        try:
            found.append((index, token_indices(text, prompt, word, released=released)))
        except UsageError as error:
            refused = error
    if not found and refused is not None:
        raise refused
    return found


def _inside(text: TextSide, positions: list[int], word: str) -> list[int]:
    """The positions that lie in the first chunk; warns about the others."""
    inside = [p for p in positions if p < text.length - 1]
    if len(inside) < len(positions):
        warnings.warn(
            f"{word!r} lies beyond the first {room(text)} tokens of its prompt, where attention is not edited;"
            " move it further to the front",
            stacklevel=2,
        )
    return inside
