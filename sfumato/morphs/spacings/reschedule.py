"""Rescheduled sampling of DiffMorpher (Zhang et al., 2024), https://arxiv.org/abs/2312.07409: two passes."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

from sfumato.metrics.distance import Distance
from sfumato.morphs.path import Frames
from sfumato.morphs.spacings.base import Spaced, any_weight, even_weights, spaced, spacing
from sfumato.morphs.spacings.pair_distances import Ruler
from sfumato.watch import Watch


@spacing(
    "reschedule",
    title="Rescheduled sampling (DiffMorpher)",
    summary="Measures distances at even weights once, and from them chooses weights of even distances.",
    when="A frame may cost no more than two draws.",
    cost="each frame twice",
)
def rescheduled(frames: Frames, distance: Distance, num_frames: int, *, watch: Watch) -> Spaced:
    """DiffMorpher's one pass; the result is even as far as distances add up and the pace is straight between frames."""
    any_weight(frames, "reschedule")
    ruler, first = Ruler(frames, distance), even_weights(num_frames)
    measured = ruler.along(first)
    weights, notes = reschedule(measured, first, num_frames), list[str]()
    if not any(measured):
        notes.append(f"all frames are equal by the {distance.name} distance: the weights stay even")
    return spaced(ruler, weights, even=measured, looked=[*first[1:-1], *weights[1:-1]], notes=notes)


def reschedule(distances: Sequence[float], weights: Sequence[float], num_frames: int) -> list[float]:
    """Turns the pace measured at some weights into weights of even pace.

    The cumulative distance is taken as straight between the weights measured, and inverted at even values; a value
    that hits a measured one exactly belongs to the interval before it.

    Reference: Zhang et al., 2024, https://arxiv.org/abs/2312.07409.

    Args:
        distances: Between neighbouring frames, at least 0, one fewer than the weights.
        weights: Where these frames are, ascending.
        num_frames: How many weights are wanted, at least 2.

    Returns:
        Ascending weights, the first and last as given; even ones where all distances are zero.

    Raises:
        ValueError: The lengths do not fit.
    """
    if len(distances) != len(weights) - 1 or num_frames < 2:
        raise ValueError(f"{len(distances)} distances, {len(weights)} weights, {num_frames} frames do not fit")
    reached = [0.0, *itertools.accumulate(distances)]
    if reached[-1] <= 0.0:
        return [weights[0] + value * (weights[-1] - weights[0]) for value in even_weights(num_frames)]
    chosen = [weights[0]]
    for value in even_weights(num_frames)[1:-1]:
        right = min(max(bisect.bisect_left(reached, value * reached[-1]), 1), len(distances))
        part = (value * reached[-1] - reached[right - 1]) / (reached[right] - reached[right - 1])
        chosen.append(weights[right - 1] + part * (weights[right] - weights[right - 1]))
    return [*chosen, weights[-1]]
