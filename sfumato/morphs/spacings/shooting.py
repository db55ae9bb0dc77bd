"""Where steps of equal distance would end along a path, estimated from the frames that are drawn."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from sfumato.morphs.spacings.pair_distances import Ruler

HALVINGS = 50


class Estimate:
    """The distance of frames at any two weights, by those measured.

    Holds distances to the power 1 / `power`, at which they add up better, with a sign that says which of the two frames
    comes first; these are smooth everywhere, so that a straight line between weights that were measured serves.
    """

    def __init__(self, ruler: Ruler, known: Sequence[float], power: float, reach: float) -> None:
        """Takes the frames drawn; measures in batches all pairs up to `reach` apart, and those just beyond."""
        self.ruler, self.known, self.power = ruler, known, power
        ahead = list(itertools.pairwise(range(len(known))))
        while ahead:
            values = ruler.between((known[k], known[j]) for k, j in ahead)
            ahead = [
                (k, j + 1) for (k, j), value in zip(ahead, values, strict=True) if value < reach and j + 1 < len(known)
            ]

    def signed(self, k: int, j: int) -> float:
        """From one known frame to another, by their places."""
        if k == j:
            return 0.0
        return math.copysign(self.ruler(self.known[k], self.known[j]) ** (1.0 / self.power), j - k)

    def walk(self, start: float, length: float, end: int) -> tuple[float, float]:
        """Takes a step of this length; gives the place, and the share of the step that there was room for.

        Places between known frames have fractions: 2.5 is half-way from the third to the fourth.
        """
        k = min(int(start), end - 1)
        part, before = start - k, 0.0
        for j in range(k + 1, end + 1):
            reached = (1.0 - part) * self.signed(k, j) + (part * self.signed(k + 1, j) if part else 0.0)
            if reached >= length:
                low = max(start, float(j - 1))  # the step may end before the next known frame
                return low + (j - low) * (length - before) / (reached - before), 1.0
            before = reached
        return float(end), max(before, 0.0) / length

    def strides(self, start: int, end: int, length: float, most: int) -> tuple[float, list[float]]:
        """How many steps of one length there are between two places, the last one in part, and where they end.

        Counts no further than `most`.
        """
        places, count = [float(start)], 0.0
        while places[-1] < end and count < most:
            place, share = self.walk(places[-1], length, end)
            places.append(place)
            count += share
        return count, places

    def longest(self, parts: Sequence[tuple[int, int]], steps: int) -> float:
        """The longest step of which the parts of the path hold this many together; 0 where nothing moves."""
        low = 0.0
        high = max(
            (self.signed(k, k + n) for a, b in parts for n in (1, b - a) for k in range(a, b + 1 - n)), default=0.0
        )
        for _ in range(HALVINGS if high > 0.0 else 0):
            length = (low + high) / 2.0
            held = sum(self.strides(start, end, length, steps)[0] for start, end in parts)
            low, high = (length, high) if held >= steps else (low, length)
        return low

    def cut(self, start: int, end: int, steps: int) -> list[float]:
        """Places that cut one part of the path into equal steps, both its ends among them."""
        length = self.longest([(start, end)], steps)
        if steps <= 1 or length == 0.0:
            return [start + (end - start) * k / max(steps, 1) for k in range(steps + 1)]
        return [*self.strides(start, end, length, steps)[1][:steps], float(end)]


def shoot(ruler: Ruler, known: Sequence[float], best: Sequence[float], jumps: Sequence[int]) -> list[float]:
    """Finds weights at which all steps are equal by what is known.

    Args:
        ruler: Measures.
        known: Weights of the frames drawn, ascending, the ends among them.
        best: The most even choice so far, of as many weights as are wanted.
        jumps: Places of known frames after which the path jumps; each is a step by itself, and the others are equal.
    """
    estimate = Estimate(ruler, known, growth(ruler, best), 1.5 * statistics.fmean(ruler.along(best)))
    edges = [0, *(edge for k in jumps for edge in (k, k + 1)), len(known) - 1]
    parts = list(zip(edges[::2], edges[1::2], strict=True))
    steps = len(best) - 1 - len(jumps)
    moving = [part for part in parts if part[0] < part[1]]
    if steps < len(moving):
        return shoot(ruler, known, best, ())
    # each part gets as many of the steps as it holds, one at least
    length = estimate.longest(moving, steps)
    held = [estimate.strides(*part, length, steps)[0] if length else 1.0 for part in moving]
    shares = [1] * len(moving)
    while sum(shares) < steps:
        shares[max(range(len(moving)), key=lambda k: held[k] / shares[k])] += 1
    places: list[float] = []
    for part in parts:
        places += estimate.cut(*part, shares[moving.index(part)]) if part in moving else [float(part[0])]
    return [
        known[int(place)] + place % 1 * (known[min(int(place) + 1, len(known) - 1)] - known[int(place)])
        for place in places
    ]


def growth(ruler: Ruler, weights: Sequence[float]) -> float:
    """How the distance grows with the way: 1 where it adds up, 2 where twice the way is four times as far."""
    triples = list(zip(weights, weights[1:], weights[2:], strict=False))
    ruler.between((a, c) for a, _, c in triples)
    ratios = [
        2.0 * ruler(a, c) / (ruler(a, b) + ruler(b, c))
        for a, b, c in triples
        if ruler(a, b) and ruler(b, c) and ruler(a, c)
    ]
    return min(max(math.log2(statistics.median(ratios)), 0.5), 2.0) if ratios else 1.0
