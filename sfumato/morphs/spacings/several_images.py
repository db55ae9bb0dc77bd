"""Number of frames of each part of a morph through several images, so that all parts change at one pace."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from sfumato.morphs.spacings.base import Spaced

ROUNDS = 4
LEAST_POWER, MOST_POWER = 0.5, 3.0


def at_one_pace(
    spacings: Sequence[Spaced], most: Sequence[int | None], again: Callable[[int, int], Spaced]
) -> list[Spaced]:
    """Shares the frames of all legs out anew until steps are about as long on each.

    Perceptual distances do not add up: half as long a way may be a third as far. So the share is not by length alone;
    how a leg's steps shrink with their number is learned from the spacings made on the way.

    Args:
        spacings: Of the legs, with as many frames in all as there are to be.
        most: Frames that a leg can have at most; None: any number.
        again: Spaces a leg with another number of frames.
    """
    spacings = list(spacings)
    total = sum(len(spaced.distances) for spaced in spacings)
    measured: list[dict[int, float]] = [{} for _ in spacings]
    best, best_spread = spacings, math.inf
    for left in reversed(range(ROUNDS)):
        for leg, spaced in zip(measured, spacings, strict=True):
            leg[len(spaced.distances)] = statistics.fmean(spaced.distances)
        steps = [leg[len(spaced.distances)] for leg, spaced in zip(measured, spacings, strict=True)]
        if (spread := max(steps) / mean if (mean := statistics.fmean(steps)) else 1.0) < best_spread:
            best, best_spread = spacings, spread
        counts = shared_out(measured, most, total)
        if not left or counts == [len(spaced.weights) for spaced in spacings]:
            break
        spacings = [
            spaced if count == len(spaced.weights) else again(k, count)
            for k, (count, spaced) in enumerate(zip(counts, spacings, strict=True))
        ]
    return best


def shared_out(measured: Sequence[Mapping[int, float]], most: Sequence[int | None], total: int) -> list[int]:
    """Numbers of frames of several legs, both ends counted.

    Args:
        measured: Of each leg the mean distance of neighbouring frames by the number of steps.
        most: Frames that a leg can have at most; None: any number.
        total: Steps of all legs together.

    Returns:
        At least 3 and at most `most` each: steps go one by one to the leg whose steps are expected to be the longest.
    """
    counts = [2] * len(measured)  # steps: one fewer than frames
    for _ in range(total - sum(counts)):
        free = [k for k, limit in enumerate(most) if limit is None or counts[k] + 1 < limit]
        if not free:
            break
        counts[max(free, key=lambda k: (expected_step(measured[k], counts[k]), -counts[k]))] += 1
    return [count + 1 for count in counts]


def expected_step(measured: Mapping[int, float], steps: int) -> float:
    """Mean distance of neighbouring frames at a number of steps: a power of it, through the nearest measured ones."""
    near = sorted(measured, key=lambda number: abs(math.log(number / steps)))[:2]
    values, power = [measured[number] for number in near], 1.0
    if len(near) == 2 and min(values) > 0.0:
        power = math.log(values[0] / values[1]) / math.log(near[1] / near[0])
    return values[0] * math.pow(near[0] / steps, min(max(power, LEAST_POWER), MOST_POWER))
