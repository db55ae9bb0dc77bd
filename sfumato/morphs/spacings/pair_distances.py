"""Distances between frames of a path, and whether they grow along it."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch

from sfumato.errors import SamplingError
from sfumato.metrics.distance import Distance
from sfumato.morphs.path import Frames

Between = Callable[[float, float], float]
"""The distance of the frames at two weights."""

PAIRS_AT_ONCE = 16
SLACK = 0.1
"""By this share of the way to the next frame the distance may fall back on it before that is worth a note."""


class Ruler:
    """Distances between frames of a path by their weights, each measured once.

    Attributes:
        frames, distance: What draws, what measures.
        measured: Distances so far, by (smaller weight, larger weight).
    """

    def __init__(self, frames: Frames, distance: Distance) -> None:
        self.frames, self.distance = frames, distance
        self.measured: dict[tuple[float, float], float] = {}

    def __call__(self, first: float, second: float) -> float:
        """The distance of the frames at two weights."""
        return self.between([(first, second)])[0]

    def between(self, pairs: Iterable[tuple[float, float]]) -> list[float]:
        """The distances of several pairs; missing frames are drawn together, and missing distances taken so.

        Raises:
            SamplingError: A distance is NaN, infinite or negative.
        """
        keys = [(min(pair), max(pair)) for pair in pairs]
        self.measured.update((key, 0.0) for key in keys if key[0] == key[1])
        missing = [key for key in dict.fromkeys(keys) if key not in self.measured]
        if missing:
            self.frames.at(sorted({weight for key in missing for weight in key}))
        for start in range(0, len(missing), PAIRS_AT_ONCE):
            chunk = missing[start : start + PAIRS_AT_ONCE]
            first, second = (self.frames.at([key[end] for key in chunk]) for end in (0, 1))
            with torch.no_grad():
                values = self.distance(first, second).double().tolist()
            for key, value in zip(chunk, values, strict=True):
                if not math.isfinite(value) or value < -1e-6:
                    raise SamplingError(
                        f"the {self.distance.name} distance of the frames at {key[0]:g} and {key[1]:g} is {value}:"
                        " the model may have broken down, try fp32"
                    )
                self.measured[key] = max(value, 0.0)
        return [self.measured[key] for key in keys]

    def along(self, weights: Sequence[float]) -> list[float]:
        """The distances of neighbouring frames."""
        return self.between(itertools.pairwise(weights))

    def turns(self, weights: Sequence[float]) -> list[str]:
        """Words for where the distance does not grow along the path: from a frame to its next, and from the first."""
        along, falls = self.along(weights), []
        drawn = sorted(self.frames.drawn)
        for a, b, full in zip(weights, weights[1:], along, strict=False):
            inside = drawn[bisect.bisect_right(drawn, a) : bisect.bisect_left(drawn, b)]
            inside = [weight for weight in inside if (a, weight) in self.measured]
            falls.append(_fall([*inside, b], [*(self.measured[a, weight] for weight in inside), full], SLACK * full))
        turned = [(a, fall) for a, fall in zip(weights, falls, strict=False) if fall is not None]
        notes = [
            f"the {self.distance.name} distance from the frame at {a:.3f} does not grow: the path turns back between"
            f" {fall[0]:.3f} and {fall[1]:.3f}"
            for a, fall in turned[:3]
        ]
        if len(turned) > 3:
            notes.append(f"the path turns back in {len(turned) - 3} more places")
        from_first = self.between((weights[0], weight) for weight in weights[1:])
        if (fall := _fall(weights[1:], from_first, max(along))) is not None:
            notes.append(
                f"the {self.distance.name} distance from the first image falls between {fall[0]:.3f} and"
                f" {fall[1]:.3f}: the path turns back towards it"
            )
        return notes


def _fall(weights: Sequence[float], values: Sequence[float], slack: float) -> tuple[float, float] | None:
    """Where values fall by more than `slack` below what they had reached: from the peak to the deepest point after."""
    deepest, place, peak = slack, None, 0
    for k, value in enumerate(values):
        if value > values[peak]:
            peak = k
        if values[peak] - value > deepest:
            deepest, place = values[peak] - value, (weights[peak], weights[k])
    return place
