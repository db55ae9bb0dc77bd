"""Weights written in the prompts, where a method edits attention: they join its own word weights.

What a target prompt weighs more or less than the source is a factor on its words' attention, as Prompt-to-Prompt's
re-weighting is (Hertz et al., 2022, https://arxiv.org/abs/2208.01626, section 3.2). What the source weighs, its text
embedding carries, as everywhere; the embedding of the target carries the same for the words that it shares or swaps.
So equal prompts stay equal, and no weight acts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.conditions.align import edited_pieces, pairing_of
from sfumato.conditions.words import Piece, pieces_of
from sfumato.models.base import TextSide
from sfumato.models.prompt_syntax import read_prompt, write_prompt


@dataclass(frozen=True)
class WordWeights:
    """A target prompt's weights, parted.

    Attributes:
        factors: On each token's attention, (length,).
        prompt: What the text encoder is given.
    """

    factors: Tensor
    prompt: str


def word_weights(text: TextSide, source: str, target: str) -> WordWeights:
    """Parts the weights of a target prompt into factors on attention and those of its text embedding."""
    old, new = pieces_of(text, source), pieces_of(text, target)
    weights_old, weights_new = _by_piece(source, old), _by_piece(target, new)
    carried = [1.0] * len(new)
    found = pairing_of(text, source, target)
    old_at, new_at = _edited_places(text, source, old), _edited_places(text, target, new)
    for sources, targets in [*(((s,), (t,)) for s, t in found.kept), *found.swapped]:
        for k in targets:
            carried[new_at[k]] = weights_old[old_at[sources[0]]]
    factors = torch.ones(text.length)
    for k, piece in enumerate(new):
        if carried[k] == 0.0 or any(position >= len(factors) - 1 for position in piece.positions):
            carried[k] = weights_new[
                k
            ]  # nothing to multiply, or beyond the edited maps: its weight is in the embedding
        else:
            factors[list(piece.positions)] = weights_new[k] / carried[k]
    return WordWeights(factors, _written(read_prompt(target).text, new, carried))


def _edited_places(text: TextSide, prompt: str, pieces: Sequence[Piece]) -> list[int]:
    """Which of a prompt's pieces attention is edited for: those that a pairing counts."""
    places = {piece: k for k, piece in enumerate(pieces)}
    return [places[piece] for piece in edited_pieces(text, prompt)]


def _by_piece(prompt: str, pieces: Sequence[Piece]) -> list[float]:
    """The weight of each piece; one that has several takes the one furthest from 1."""
    letters = [weight for text, weight in read_prompt(prompt).parts for letter in text if not letter.isspace()]
    found, start = [], 0
    for piece in pieces:
        found.append(max(letters[start : start + len(piece.text)], key=lambda weight: abs(weight - 1.0), default=1.0))
        start += len(piece.text)
    return found


def _written(text: str, pieces: Sequence[Piece], weights: Sequence[float]) -> str:
    """The text as a prompt whose pieces have these weights."""
    of_letters = iter([weight for piece, weight in zip(pieces, weights, strict=True) for _ in piece.text])
    parts: list[tuple[str, float]] = []
    for letter in text:
        weight = 1.0 if letter.isspace() else next(of_letters, 1.0)
        if parts and parts[-1][1] == weight:
            parts[-1] = parts[-1][0] + letter, weight
        else:
            parts.append((letter, weight))
    return write_prompt(parts)
