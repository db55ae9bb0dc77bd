"""Interpolates between two conditions."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.conditions.align import encoders_of
from sfumato.models.base import Condition, Model, TextSide
from sfumato.models.prompt_syntax import plain_text


def mixed_condition(condition: Condition, weights: Sequence[float]) -> Condition:
    """Conditions on the straight line between two, one row a weight.

    Args:
        condition: The two rows.
        weights: 0 = the first, 1 = the second.
    """

    def mix(tensor: Tensor) -> Tensor:
        parts = torch.tensor(weights, dtype=tensor.dtype, device=tensor.device)
        return torch.lerp(tensor[:1], tensor[1:], parts.view(-1, *[1] * (tensor.ndim - 1)))

    return condition.each(mix)


@dataclass(frozen=True, eq=False)
class PromptMix:
    """A text on the way from a source prompt to a target prompt.

    Tokens of the target are paired with those of the source; one that the source has not starts as padding.

    Attributes:
        start: What the target's tokens hold at weight 0, one row.
        weight: 0 = the source, 1 = the target.
    """

    start: Condition
    weight: float = 1.0

    @classmethod
    def between(cls, model: Model, source_prompt: str, target_prompt: str) -> PromptMix:
        """The way from one prompt to the other, at weight 1."""
        both = model.encode_prompt([source_prompt, target_prompt])
        places = paired_tokens(model.text, source_prompt, target_prompt, both.tokens)
        return cls(both[[0]].with_text(both.text[:1, places]))

    def at(self, weight: float) -> PromptMix:
        """The same way at another weight."""
        return replace(self, weight=weight)

    def apply(self, target: Condition, empty: Condition) -> Condition:
        """What stands in the target's place.

        Args:
            target: The target prompt as the model reads it, with whatever weights its words have; any number of rows.
            empty: The empty prompt, one row, which fills up the shorter one of the two.
        """
        start, target = Condition.equally_long([self.start, target], empty)
        rows = [Condition.cat([start, target[[k]]]) for k in range(len(target))]
        return Condition.cat([mixed_condition(ends, [self.weight]) for ends in rows])


def paired_tokens(text: TextSide, source: str, target: str, length: int) -> list[int]:
    """For each token position of the target prompt that of the source which it comes from.

    Args:
        text: The model's.
        source, target: Prompts.
        length: Positions of both; prompts of several chunks are paired position by position.
    """
    sides = encoders_of(text)
    if sides == (text,) or length != text.length:
        return _paired(text, source, target, length)
    places: list[int] = []
    for side in sides:
        first = len(places)
        places += [first + place for place in _paired(side, source, target, side.length)]
    return places + list(range(len(places), length))


def _paired(text: TextSide, source: str, target: str, length: int) -> list[int]:
    """As `paired_tokens`, of the tokens of one encoder."""
    a, b = (
        [*[-1] * text.start, *(token for token, _ in text.tokens(plain_text(prompt))), -2]
        for prompt in (source, target)
    )
    if max(len(a), len(b)) > text.length:
        return list(range(length))
    places: list[int] = []
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        new, old = j2 - j1, i2 - i1
        places += [length - 1] * new if kind == "insert" else [i1 + k * old // new for k in range(new)]
    return places + [min(len(a) + k, length - 1) for k in range(length - len(b))]
