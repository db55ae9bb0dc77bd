"""Perceptually uniform spacing: a given number of frames, neighbours equally far apart, in few draws.

IMPUS (Yang et al., 2024, https://arxiv.org/abs/2311.06792) finds frame after frame by bisection at a given distance, so
that the number of frames follows and no two can be drawn together. Here the number is given, the distance is to be
found, and frames are drawn in rounds:

1. Draw frames at even weights.
2. From all frames drawn so far, estimate the distance of the frames at any two weights.
3. Shoot: walk from 0 in steps of one estimated distance, as many as are wanted; lengthen or shorten the step until the
   walk ends at 1.
4. Draw where it stood, measure, and go on from 2 until the measured distances are even enough, or draws run out.

Perceptual distances do not add up: LPIPS grows with the square of a short step, and saturates over a long one. The
estimate is therefore made from distances measured over the length of a step, never from sums of smaller ones.

Where two adjacent weights give frames farther apart than the mean step, the path jumps. No weight lies in between, so
the remaining frames are spread evenly over the parts before and after the jump.
"""

from __future__ import annotations

import itertools
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from sfumato.errors import UsageError
from sfumato.metrics.distance import Distance
from sfumato.morphs.path import Frames
from sfumato.morphs.spacings.base import Spaced, even_weights, spaced, spacing, spread_of
from sfumato.morphs.spacings.least_spread import least_spread
from sfumato.morphs.spacings.pair_distances import Ruler
from sfumato.morphs.spacings.shooting import shoot
from sfumato.options import Option
from sfumato.watch import Watch

MAX_ROUNDS = 12


@spacing(
    "uniform",
    title="Perceptually uniform",
    paper="after Yang et al., 2024, https://arxiv.org/abs/2311.06792",
    summary="Finds weights at which neighbouring frames are equally far apart, for a given number of frames.",
    when="The usual choice: a morph that changes evenly.",
    cost="each frame two to four times on a smooth path",
)
def uniform(
    frames: Frames,
    distance: Distance,
    num_frames: int,
    *,
    watch: Watch,
    tolerance: Annotated[
        float,
        Option(
            "share by which the largest distance may exceed the mean; lower is more even, slower", low=1e-6, high=10
        ),
    ] = 0.1,
    max_draws: Annotated[
        int | None,
        Option("largest number of frames to draw, at least those at even weights; none: 6 for each frame", low=2),
    ] = None,
    resolution: Annotated[
        float, Option("smallest difference of two weights; closer ones count as equal", low=1e-9, high=0.1)
    ] = 1e-3,
) -> Spaced:
    """Spaces a given number of frames evenly; see the module for how.

    Where the path has frames at some weights only, the most even choice among these is taken.
    """
    ruler = Ruler(frames, distance)
    if frames.path.weights is not None:
        return chosen(ruler, frames.path.weights, num_frames)
    budget = (6 * num_frames if max_draws is None else max_draws) - 2  # the ends are drawn in any case

    # 1: even weights
    first = even_weights(num_frames)
    even, known, looked, tried = ruler.along(first), list(first), first[1:-1], [first]
    if not any(even):
        return spaced(
            ruler, first, even=even, looked=looked, notes=[f"all frames are equal by the {distance.name} distance"]
        )
    room = 0.25 * tolerance  # a frame drawn as close as this share of a step serves as well as a new one

    for _ in watch.during("spacing the frames").over(range(MAX_ROUNDS)):
        best = _best(ruler, tried, resolution)
        if _off(ruler, best, resolution) <= tolerance:
            break
        # 2, 3: where equal steps would end, by all that is known
        shot = shoot(ruler, known, best, _jumps(ruler, known, best, resolution))
        # 4: draw there, measure
        steps = [min(at - before, after - at) for before, at, after in zip(shot, shot[1:], shot[2:], strict=False)]
        stops = [0.0, *(_snapped(known, at, room * step) for at, step in zip(shot[1:-1], steps, strict=True)), 1.0]
        if stops in tried:
            room /= 4.0
            continue
        missing = [stop for stop in stops if stop not in known]
        if len(looked) + len(missing) > budget:
            break
        ruler.along(stops)
        known, looked = sorted({*known, *missing}), [*looked, *missing]
        tried += [stops, _picked(ruler, known, num_frames)]

    best = _best(ruler, tried, resolution)
    notes = [
        f"the path jumps between {known[k]:.4f} and {known[k + 1]:.4f} ({distance.name} distance"
        f" {ruler(known[k], known[k + 1]):.3g}, more than the mean): no frame lies in between"
        for k in _jumps(ruler, known, best, resolution)
    ]
    walked = _walked(ruler, best, resolution)
    if _off(ruler, best, resolution) > tolerance:
        notes.append(
            f"frames are not even to {tolerance:g} after {len(looked) + 2} draws: the distances of neighbours are"
            f" {min(walked) / statistics.fmean(walked):.2f} to {spread_of(walked):.2f} times their mean"
        )
    record = {"draws": len(looked) + 2, "spread": spread_of(walked)}
    return spaced(ruler, best, even=even, looked=looked, notes=notes, record=record)


def chosen(ruler: Ruler, weights: Sequence[float], num_frames: int) -> Spaced:
    """The most even choice among weights that are given, the first and last among them.

    Raises:
        UsageError: There are too few.
    """
    if num_frames > len(weights):
        raise UsageError(
            f"this morph has {len(weights)} frames, got num_frames={num_frames}: ask for {len(weights)} or fewer"
        )
    ruler.between(itertools.combinations(weights, 2))
    return spaced(ruler, _picked(ruler, weights, num_frames), looked=weights[1:-1])


def _best(ruler: Ruler, tried: Sequence[list[float]], resolution: float) -> list[float]:
    return min(tried, key=lambda weights: _off(ruler, weights, resolution))


def _picked(ruler: Ruler, known: Sequence[float], num_frames: int) -> list[float]:
    """The most even choice among the frames drawn so far, by the pairs that are measured; costs no draw."""
    table = np.full((len(known), len(known)), np.inf)
    for k, j in itertools.combinations(range(len(known)), 2):
        table[k, j] = ruler.measured.get((known[k], known[j]), np.inf)
    return [known[k] for k in least_spread(table, num_frames)]


def _jumps(ruler: Ruler, known: Sequence[float], weights: Sequence[float], resolution: float) -> list[int]:
    """Places of known frames after which the path jumps: the next one is close by and further than a mean step."""
    mean = statistics.fmean(ruler.along(weights))
    near = [k for k, (a, b) in enumerate(itertools.pairwise(known)) if b - a <= resolution]
    ruler.between((known[k], known[k + 1]) for k in near)
    return [k for k in near if ruler(known[k], known[k + 1]) > mean]


def _off(ruler: Ruler, weights: Sequence[float], resolution: float) -> float:
    """How far the steps are from even: the share by which the largest passes the mean.

    The smallest may fall short by twice as much, and counts from there on: a frame that repeats its neighbour is seen
    too, but a step too long more.
    """
    walked = _walked(ruler, weights, resolution)
    mean = statistics.fmean(walked)
    return max(max(walked) / mean - 1.0, (1.0 - min(walked) / mean) / 2.0) if mean > 0.0 else 0.0


def _walked(ruler: Ruler, weights: Sequence[float], resolution: float) -> list[float]:
    """Distances of neighbours, jumps left out."""
    along = ruler.along(weights)
    mean, gaps = statistics.fmean(along), itertools.pairwise(weights)
    return [value for value, (a, b) in zip(along, gaps, strict=True) if b - a > resolution or value <= mean]


def _snapped(known: Sequence[float], weight: float, room: float) -> float:
    """The nearest known weight where one is within `room`, else the weight itself."""
    right = bisect_left(known, weight)
    nearest = min(known[max(right - 1, 0) : right + 1], key=lambda other: abs(other - weight))
    return nearest if abs(nearest - weight) <= room else weight
