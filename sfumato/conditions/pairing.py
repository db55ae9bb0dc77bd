"""Pairs the words of two prompts: which occur in both, and which replace which.

A word may be swapped for a phrase: what stands between the same kept words in both prompts is exchanged as a whole. The
same tags in another order are the same tags. What has no counterpart is added or removed.

Ours. The order in which ties of the alignment are broken is that of Prompt-to-Prompt's code (Hertz et al., 2022,
https://arxiv.org/abs/2208.01626).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sfumato.conditions.words import Piece

COMMAS = (",", "，", "、")
_JOINING = frozenset(
    ("and", "or", "with", "without", "wearing", "while", "before", "after", "who", "which", "that")
) | {
    *("in", "on", "at", "by", "near", "over", "under", "behind", "beside", "between", "und", "mit", "et", "avec", "con")
}
"""Words that say something beside a thing: a phrase with one of them is no longer the name of one thing."""

_LETTERS_OF_A_WORD = 4


@dataclass(frozen=True)
class Pairing:
    """Two prompts' pieces, by index.

    Attributes:
        kept: (source, target) that are the same.
        swapped: Runs that take one another's place; several pieces of the one may be one of the other.
        added, removed: Pieces of the target and of the source without a counterpart; punctuation alone is left out.
    """

    kept: tuple[tuple[int, int], ...]
    swapped: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    added: tuple[int, ...]
    removed: tuple[int, ...]

    @property
    def is_swap(self) -> bool:
        """Whether the prompts differ in swapped words alone."""
        return not self.added and not self.removed


def pairing(source: Sequence[Piece], target: Sequence[Piece]) -> Pairing:
    """Pairs the pieces of two prompts.

    Equal tags come first, wherever they stand, where both prompts are lists of tags. Of the rest, where as many pieces
    are in place as can be kept at all, pieces are paired by place; else by the longest common sequence, and what
    stands between two kept pieces is swapped as a whole, unless the longer side says more than one thing. Prompts of
    several words each that have none in common are not paired at all.
    """
    tags = _moved_tags(source, target)
    sources = [k for k in range(len(source)) if k not in {s for s, _ in tags}]
    targets = [k for k in range(len(target)) if k not in {t for _, t in tags}]
    keys_s, keys_t = [_key(source[k]) for k in sources], [_key(target[k]) for k in targets]
    common = aligned(keys_s, keys_t)
    in_place = [(k, k) for k, (a, b) in enumerate(zip(keys_s, keys_t, strict=False)) if a == b]
    if len(keys_s) == len(keys_t) and len(in_place) == len(common):
        common = in_place

    if not common and not tags and _says_several(source) and _says_several(target):
        return Pairing((), (), tuple(range(len(target))), tuple(range(len(source))))

    swapped: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    added: list[int] = []
    removed: list[int] = []
    for (s, t), (s_next, t_next) in pairwise([(-1, -1), *common, (len(keys_s), len(keys_t))]):
        gap_s, gap_t = tuple(sources[s + 1 : s_next]), tuple(targets[t + 1 : t_next])
        if len(gap_s) == len(gap_t):
            swapped += [((a,), (b,)) for a, b in zip(gap_s, gap_t, strict=True)]
        elif _is_phrase(source, gap_s) and _is_phrase(target, gap_t):
            swapped.append((gap_s, gap_t))
        else:
            removed += [k for k in gap_s if not source[k].is_punctuation]
            added += [k for k in gap_t if not target[k].is_punctuation]
    kept = sorted([*tags, *((sources[s], targets[t]) for s, t in common)])
    return Pairing(tuple(kept), tuple(swapped), tuple(added), tuple(removed))


def aligned(source: Sequence[Hashable], target: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Index pairs of equal entries in a global alignment (Needleman & Wunsch, 1970), in order.

    Gap 0, match 1, mismatch -1, so that unlike entries are never paired. On ties a new target entry is preferred to a
    dropped source entry, and that to a pair.
    """
    score = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, a in enumerate(source, start=1):
        for j, b in enumerate(target, start=1):
            score[i][j] = max(score[i][j - 1], score[i - 1][j], score[i - 1][j - 1] + (1 if a == b else -1))
    found: list[tuple[int, int]] = []
    i, j = len(source), len(target)
    while i > 0 and j > 0:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            found.append((i, j))
    return found[::-1]


def _key(piece: Piece) -> Hashable:
    return piece.key, len(piece.positions)


def _moved_tags(source: Sequence[Piece], target: Sequence[Piece]) -> list[tuple[int, int]]:
    """Pairs of the tags that both lists hold, and of their commas; nothing where one of the prompts is no list."""
    commas = [[k for k, piece in enumerate(pieces) if piece.text in COMMAS] for pieces in (source, target)]
    if not all(commas):
        return []
    places: dict[Hashable, list[list[int]]] = defaultdict(list)
    for tag in _tags(source):
        places[tuple(_key(source[k]) for k in tag)].append(tag)
    found = list(zip(*commas, strict=False))
    for tag in _tags(target):
        same = places[tuple(_key(target[k]) for k in tag)]
        if same:
            found += zip(same.pop(0), tag, strict=True)
    return found


def _tags(pieces: Sequence[Piece]) -> list[list[int]]:
    tags: list[list[int]] = [[]]
    for k, piece in enumerate(pieces):
        if piece.text in COMMAS:
            tags.append([])
        else:
            tags[-1].append(k)
    return [tag for tag in tags if tag]


def _is_phrase(pieces: Sequence[Piece], run: Sequence[int]) -> bool:
    """Whether pieces are the name of one thing."""
    return bool(run) and not any(pieces[k].is_punctuation or pieces[k].key in _JOINING for k in run)


def _says_several(pieces: Sequence[Piece]) -> bool:
    """Whether a prompt has several words; in scripts without spaces, more letters than a word has."""
    words = [piece.word for piece in pieces if not piece.is_punctuation]
    return len(set(words)) > 1 or len(words) > _LETTERS_OF_A_WORD
