"""IMPUS's perceptually uniform sampling (Yang et al., 2024), https://arxiv.org/abs/2311.06792: steps of one size."""

from __future__ import annotations

from typing import Annotated

from sfumato.metrics.distance import Distance
from sfumato.morphs.path import Frames
from sfumato.morphs.spacings.base import Spaced, any_weight, spaced, spacing
from sfumato.morphs.spacings.pair_distances import Ruler
from sfumato.options import Option
from sfumato.watch import Watch


@spacing(
    "step",
    title="Steps of one size (IMPUS)",
    summary="Finds each next frame at a given distance by bisection; the number of frames follows.",
    when="The distance between frames matters, and their number does not.",
    cost="three to six draws a frame on a smooth path, about thirty at a jump",
    sets_num_frames=True,
)
def step(
    frames: Frames,
    distance: Distance,
    num_frames: int,
    *,
    watch: Watch,
    delta: Annotated[float, Option("distance from one frame to the next; lower makes more frames", low=1e-9)] = 0.2,
    tolerance: Annotated[float, Option("largest error of that distance", low=0)] = 1e-2,
    resolution: Annotated[
        float, Option("smallest difference of two weights; closer ones count as equal", low=1e-12, high=0.5)
    ] = 1e-8,
    max_draws: Annotated[int, Option("largest number of frames to draw; the search then stops", low=1)] = 1000,
) -> Spaced:
    """IMPUS's perceptually uniform sampling, as its released code does it.

    Every bisection starts from the last frame taken and reaches to the end, and assumes that the distance grows on the
    way. The last step may be much shorter than `delta`. At a jump no frame is `delta` away: the bisection ends beside
    it, and the next one takes the other side.

    Differs from the released code: stops after `max_draws`, says where the path turned back.
    """
    any_weight(frames, "step")
    ruler, looked, weights = Ruler(frames, distance), list[float](), [0.0]
    while ruler(weights[-1], 1.0) > delta and 1.0 - weights[-1] > resolution and len(looked) < max_draws:
        low, high = weights[-1], 1.0
        while True:
            watch.check(f", after {len(looked)} draws")
            middle = (low + high) / 2.0
            looked.append(middle)
            reached = ruler(weights[-1], middle)
            if abs(reached - delta) <= tolerance or high - low <= resolution or len(looked) >= max_draws:
                break
            low, high = (low, middle) if reached > delta else (middle, high)
        weights.append(middle)
    notes = []
    if len(looked) >= max_draws:
        notes.append(
            f"stopped after {max_draws} draws: the last step is longer; take a larger delta, or more max_draws"
        )
    if 1.0 - weights[-1] > resolution or len(weights) == 1:
        weights.append(1.0)
    if len(weights) != num_frames:
        notes.append(f"steps of {delta:g} make {len(weights)} frames; {num_frames} were asked for")
    return spaced(ruler, weights, looked=looked, notes=notes, record={"draws": len(looked)})
